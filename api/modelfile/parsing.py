"""Reads Modelfiles, in Ollama's grammar and with its error texts."""

from __future__ import annotations

import re

from corral.api.modelfile.instructions import INSTRUCTIONS, ROLES, Instruction, InvalidModelfile, Modelfile
from corral.core.go.spaces import SPACES, trim_space

__all__ = ("QUOTES", "decode_modelfile", "parse_modelfile", "read_value")

QUOTES = ('"""', '"')
"""What can stand around a value."""

_KEYWORDS = ", ".join(f'"{keyword}"' for keyword in INSTRUCTIONS[:-1]) + f', or "{INSTRUCTIONS[-1]}"'
_BAD_KEYWORD = f"command must be one of {_KEYWORDS}"
_BAD_ROLE = "message role must be one of " + ", ".join(f'"{role}"' for role in ROLES[:-1]) + f', or "{ROLES[-1]}"'
_CUT_OFF = "unexpected EOF"
_NEWLINE = re.compile(r"[\r\n]")
_LINE_BREAK = re.compile(r"\r\n|[\r\n]")
_BLANK = re.compile(r"[ \t\r\n]*")
_KEYWORD = re.compile(r"[A-Za-z]+(?=[ \t])")
_SPACES = re.compile(r"[ \t]+")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_ROLE = re.compile(r"[A-Za-z]+")
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def decode_modelfile(data: bytes) -> str:
    """The text of a Modelfile: UTF-8, or what its byte order mark says. Bytes that are no text become U+FFFD."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode("utf-8", "replace")


def parse_modelfile(text: str) -> Modelfile:
    """Raises `InvalidModelfile`, with the number of the line if it knows it."""
    found: list[Instruction] = []
    at = 0
    while (at := _BLANK.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # matches nothing too
        if text[at] == "#":
            at = _end_of_line(text, at)
            continue
        instruction, at = _instruction(text, at)
        found.append(instruction)
    if not any(one.keyword == "from" for one in found):
        raise InvalidModelfile("no FROM line", "say what to start from: FROM NAME, or FROM ./model.gguf")
    return Modelfile(instructions=tuple(found))


def _instruction(text: str, at: int) -> tuple[Instruction, int]:
    """The instruction that begins at `at`, and where its last line ends."""
    word = _KEYWORD.match(text, at)
    keyword = next((one for one in INSTRUCTIONS if word is not None and one == word[0].lower()), None)
    if keyword is None or word is None:
        line = text[at : _end_of_line(text, at)]
        if at + len(line) == len(text) and line.isascii() and line.isalpha():
            raise InvalidModelfile(_CUT_OFF, f"the last line, {line[:40]!r}, has no value")
        raise InvalidModelfile(_BAD_KEYWORD, f"the line is {line[:60]!r}", line=_line(text, at))
    at, name = word.end(), ""
    if keyword in ("parameter", "message"):
        name, at = _name(text, at, is_role=keyword == "message")
    value, at = read_value(text, at)
    return Instruction(keyword=keyword, name=name, value=value), at


def _name(text: str, at: int, *, is_role: bool) -> tuple[str, int]:
    """The role of a MESSAGE, or the name of a PARAMETER, and where it ends."""
    at = _SPACES.match(text, at).end()  # type: ignore[union-attr]  # a space follows the keyword
    word = (_ROLE if is_role else _NAME).match(text, at)
    if word is None or text[word.end() : word.end() + 1] not in (" ", "\t"):
        what = "MESSAGE needs a role and a text" if is_role else "PARAMETER needs a name and a value"
        cut = "" if word is None else f": {word[0]}"
        raise InvalidModelfile(_CUT_OFF + cut, f"{what}, on one line", line=_line(text, at))
    if is_role and word[0] not in ROLES:
        raise InvalidModelfile(_BAD_ROLE, line=_line(text, at))
    return word[0], word.end()


def read_value(text: str, at: int) -> tuple[str, int]:
    """The value that begins at `at`, and where its last line ends. Raises `InvalidModelfile`.

    There are no escapes: in quotes, a value ends at the first line that ends with the same quotes.
    """
    end = _end_of_line(text, at)
    first = trim_space(text[at:end])
    quotes = next((kind for kind in QUOTES if first.startswith(kind)), None)
    if quotes is None:
        return first, end
    begin = line_begin = text.index(quotes, at)
    while True:
        closing = line_begin + len(text[line_begin:end].rstrip(SPACES)) - len(quotes)
        if closing >= begin + len(quotes) and text.startswith(quotes, closing):
            return text[begin + len(quotes) : closing], end
        if end == len(text):
            raise InvalidModelfile(_CUT_OFF, f"the {quotes} in line {_line(text, begin)} are never closed")
        line_begin = end + 1
        end = _end_of_line(text, line_begin)


def _end_of_line(text: str, at: int) -> int:
    end = _NEWLINE.search(text, at)
    return len(text) if end is None else end.start()


def _line(text: str, at: int) -> int:
    return 1 + len(_LINE_BREAK.findall(text[:at]))
