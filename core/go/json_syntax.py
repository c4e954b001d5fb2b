"""Finds the end of the first JSON value in a text, or reports what is wrong, with the text of Go's decoder."""

from __future__ import annotations

import re

from corral.core.go.quoting import quote_character

__all__ = ("GoSyntaxError", "end_of_value")

_MAX_DEPTH = 10_000
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_STRING_PREFIX = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LITERALS = {"t": "true", "f": "false", "n": "null"}


class GoSyntaxError(ValueError):
    """JSON that Go's decoder rejects, with Go's text. `is_end` means that it is valid so far, but incomplete."""

    def __init__(self, text: str, *, is_end: bool = False) -> None:
        super().__init__(text)
        self.is_end = is_end


def end_of_value(text: str) -> int:
    """The index just after the first JSON value. What follows it is not read, as in Go's ``Decoder.Decode``."""
    at = _SPACE.match(text).end()  # type: ignore[union-attr]  # matches the empty string
    closers: list[str] = []
    while True:
        opened = text[at : at + 1]
        if opened in ("{", "["):
            if len(closers) == _MAX_DEPTH:
                raise GoSyntaxError("exceeded max depth")
            closers.append("}" if opened == "{" else "]")
            at = _skip_space(text, at + 1)
            if text[at] != closers[-1]:
                at = _key(text, at) if opened == "{" else at
                continue
            closers.pop()
            at += 1
        else:
            at = _scalar(text, at)
        # A value has ended: close the containers that end with it, or continue with the next value.
        while True:
            if not closers:
                return at
            at = _skip_space(text, at)
            if text[at] == closers[-1]:
                closers.pop()
                at += 1
                continue
            inside = "object key:value pair" if closers[-1] == "}" else "array element"
            if text[at] != ",":
                raise _invalid(text, at, f"after {inside}")
            at = _skip_space(text, at + 1)
            if closers[-1] == "}":
                at = _key(text, at)
            break


def _skip_space(text: str, at: int) -> int:
    """The index of the next character that is not white space. Raises if the text ends."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if at == len(text):
        raise GoSyntaxError("unexpected EOF", is_end=True)
    return at


def _key(text: str, at: int) -> int:
    """Reads ``"key":`` and the white space after it."""
    if text[at] != '"':
        raise _invalid(text, at, "looking for beginning of object key string")
    at = _skip_space(text, _string(text, at))
    if text[at] != ":":
        raise _invalid(text, at, "after object key")
    return _skip_space(text, at + 1)


def _scalar(text: str, at: int) -> int:
    first = text[at : at + 1]
    if first == '"':
        return _string(text, at)
    if first == "-" or (first.isascii() and first.isdigit()):
        return _number(text, at)
    literal = _LITERALS.get(first)
    if literal is None:
        raise _invalid(text, at, "looking for beginning of value")
    for offset in range(1, len(literal)):
        if text[at + offset : at + offset + 1] != literal[offset]:
            raise _invalid(text, at + offset, f"in literal {literal} (expecting {quote_character(literal[offset])})")
    return at + len(literal)


def _string(text: str, at: int) -> int:
    whole = _STRING.match(text, at)
    if whole is not None:
        return whole.end()
    bad = _STRING_PREFIX.match(text, at).end()  # type: ignore[union-attr]  # the quote is there
    if text[bad : bad + 1] != "\\":
        raise _invalid(text, bad, "in string literal")
    if text[bad + 1 : bad + 2] != "u":
        raise _invalid(text, bad + 1, "in string escape code")
    digit = bad + 2
    while text[digit : digit + 1] in tuple("0123456789abcdefABCDEF"):
        digit += 1
    raise _invalid(text, digit, "in \\u hexadecimal character escape")


def _number(text: str, at: int) -> int:
    whole = _NUMBER.match(text, at)
    if whole is None:
        raise _invalid(text, at + 1, "in numeric literal")
    end, following = whole.end(), text[whole.end() : whole.end() + 1]
    if following == "." and "." not in whole[0] and "e" not in whole[0].lower():
        raise _invalid(text, end + 1, "after decimal point in numeric literal")
    if following in ("e", "E") and "e" not in whole[0].lower():
        after_sign = end + 2 if text[end + 1 : end + 2] in ("+", "-") else end + 1
        raise _invalid(text, after_sign, "in exponent of numeric literal")
    return end


def _invalid(text: str, at: int, where: str) -> GoSyntaxError:
    if at >= len(text):
        return GoSyntaxError("unexpected EOF", is_end=True)
    return GoSyntaxError(f"invalid character {quote_character(text[at])} {where}")
