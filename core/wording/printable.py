"""Makes untrusted text safe to print: control characters become visible escapes."""

from __future__ import annotations

import re

__all__ = ("one_line", "printable")

# Control characters of both sets except newline and tab; overrides of the writing direction, which can make one name
# look like another; and lone surrogates, which come from file names and cannot be encoded.
_UNSAFE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL = re.compile(rf"\r(?=\n)|[{_UNSAFE}]")
_CONTROL_OR_BREAK = re.compile(rf"[\t\n\u061c\u200e\u200f\u2028\u2029{_UNSAFE}]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def printable(text: str) -> str:
    r"""`text` with each control character as its escape (ESC is ``\x1b``); newlines and tabs stay.

    A ``\r\n`` becomes ``\n``. Works on pieces of a stream, and keeps JSON text valid.
    """
    return _CONTROL.sub(_escaped, text)


def one_line(text: str) -> str:
    r"""As `printable`, with newlines and tabs escaped too: for table cells, labels and log lines."""
    return _CONTROL_OR_BREAK.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character == "\r" and found.string.startswith("\n", found.end()) and found.re is _CONTROL:
        return ""
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"
