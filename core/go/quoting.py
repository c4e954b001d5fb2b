"""Quoted strings and characters, as Go programs write them."""

from __future__ import annotations

__all__ = ("quote", "quote_ascii", "quote_character", "unicode_point")

_LONGEST = 200  # characters; longer strings are cut in errors
_ESCAPES = {
    '"': r"\"", "\\": r"\\", "\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v",
}  # fmt: skip


def quote(text: str) -> str:
    """Quotes like ``strconv.Quote``: printable characters stay as they are."""
    return '"' + "".join(map(_escaped, text)) + '"'


def quote_ascii(text: str) -> str:
    """Quotes like Go's ``time`` package: characters other than printable ASCII are shown as the bytes of UTF-8."""
    quoted = []
    for character in text[:_LONGEST]:
        if character in '"\\':
            quoted.append("\\" + character)
        elif " " <= character < "\x7f":
            quoted.append(character)
        else:
            quoted.extend(f"\\x{byte:02x}" for byte in character.encode(errors="surrogatepass"))
    return '"' + "".join(quoted) + '"'


def quote_character(character: str) -> str:
    """Quotes an unexpected character like ``encoding/json``: its first byte, in single quotes."""
    character = chr(character.encode()[0])
    if character == "'":
        return r"'\''"
    return "'\"'" if character == '"' else f"'{_escaped(character)}'"


def unicode_point(character: str) -> str:
    """Describes a character like Go's format ``%#U``: its number, and the character itself if it is printable."""
    number = f"U+{ord(character):04X}"
    return f"{number} '{character}'" if character.isprintable() else number


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
