"""Splits the text of a Go template into tokens, as ``text/template/parse`` does."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from corral.core.go.quoting import quote, unicode_point

__all__ = ("Kind", "Lexer", "TemplateToken")


class Kind(Enum):
    """What a token is. Those of keywords come last."""

    ERROR = "error"
    BOOL = "bool"
    CHARACTER = "character"
    CHARACTER_CONSTANT = "character constant"
    COMPLEX = "complex"
    ASSIGN = "="
    DECLARE = ":="
    END_OF_TEXT = "EOF"
    FIELD = "field"
    IDENTIFIER = "identifier"
    LEFT_DELIMITER = "{{"
    LEFT_PARENTHESIS = "("
    NUMBER = "number"
    PIPE = "|"
    RAW_STRING = "raw string"
    RIGHT_DELIMITER = "}}"
    RIGHT_PARENTHESIS = ")"
    SPACE = "space"
    STRING = "string"
    TEXT = "text"
    VARIABLE = "variable"
    BLOCK = "block"
    BREAK = "break"
    CONTINUE = "continue"
    DOT = "."
    DEFINE = "define"
    ELSE = "else"
    END = "end"
    IF = "if"
    NIL = "nil"
    RANGE = "range"
    TEMPLATE = "template"
    WITH = "with"


_KEYWORDS = {
    kind.value: kind
    for kind in (
        Kind.BLOCK, Kind.BREAK, Kind.CONTINUE, Kind.DOT, Kind.DEFINE, Kind.ELSE, Kind.END, Kind.IF, Kind.NIL,
        Kind.RANGE, Kind.TEMPLATE, Kind.WITH,
    )
}  # fmt: skip
_WORDS = frozenset(_KEYWORDS.values())
_SIMPLE = {"=": Kind.ASSIGN, "|": Kind.PIPE, "(": Kind.LEFT_PARENTHESIS, ")": Kind.RIGHT_PARENTHESIS}
_SPACES = " \t\r\n"
_SPACE_RUN = re.compile(r"[ \t\r\n]*")
_ASCII_WORD = re.compile(r"[A-Za-z0-9_]*")
_QUOTED = {
    '"': (re.compile(r'"(?:[^"\\\n]|\\[^\n])*'), Kind.STRING, "unterminated quoted string"),
    "'": (re.compile(r"'(?:[^'\\\n]|\\[^\n])*"), Kind.CHARACTER_CONSTANT, "unterminated character constant"),
    "`": (re.compile(r"`[^`]*"), Kind.RAW_STRING, "unterminated raw quoted string"),
}
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?"
    r"|0[oO][0-7_]*(?:\.[0-7_]*)?|0[bB][01_]*(?:\.[01_]*)?|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?)i?"
)


class TemplateToken(NamedTuple):
    """A token: its text, and where in the template it begins."""

    kind: Kind
    position: int
    text: str

    def __str__(self) -> str:
        """As error messages show it."""
        if self.kind is Kind.END_OF_TEXT:
            return "EOF"
        if self.kind is Kind.ERROR:
            return self.text
        if self.kind in _WORDS:
            return f"<{self.text}>"
        return quote(self.text[:10]) + "..." if len(self.text.encode(errors="replace")) > 10 else quote(self.text)


class Lexer:
    """Gives one token after another. After an error, there are no more."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._position = 0
        self._inside = False
        self._depth = 0
        self.count = 0

    def next(self) -> TemplateToken:
        """The next token; at the end of the template, ``END_OF_TEXT`` again and again. `count` is how many it gave."""
        self.count += 1
        return self._inside_action() if self._inside else self._text()

    def _text(self) -> TemplateToken:
        source = self._source
        while True:
            start = self._position
            opened = source.find("{{", start)
            if opened < 0:
                self._position = len(source)
                kind = Kind.TEXT if start < len(source) else Kind.END_OF_TEXT
                return TemplateToken(kind, start, source[start:] if start < len(source) else "EOF")
            trims = self._trims_before(opened + 2)
            text = source[start:opened]
            if text:
                self._position = opened
                kept = text.rstrip(_SPACES) if trims else text
                if kept:
                    return TemplateToken(Kind.TEXT, start, kept)
            after = opened + (4 if trims else 2)
            if not source.startswith("/*", after):
                self._position, self._inside, self._depth = after, True, 0
                return TemplateToken(Kind.LEFT_DELIMITER, opened, "{{")
            failed = self._skip_comment(after)
            if failed is not None:
                return failed

    def _trims_before(self, position: int) -> bool:
        return self._source[position : position + 1] == "-" and self._source[position + 1 : position + 2] in (
            " ", "\t", "\r", "\n",
        )  # fmt: skip

    def _skip_comment(self, start: int) -> TemplateToken | None:
        closed = self._source.find("*/", start + 2)
        if closed < 0:
            return self._error(start, "unclosed comment")
        self._position = closed + 2
        length = self._delimiter_length(self._position)
        if not length:
            return self._error(start, "comment ends before closing delimiter")
        self._position += length
        if length > 2:
            self._skip_spaces()
        return None

    def _delimiter_length(self, position: int) -> int:
        """That of the right delimiter here, with its mark for trimming; 0 if there is none."""
        source = self._source
        if source.startswith("-}}", position + 1) and source[position] in _SPACES:
            return 4
        return 2 if source.startswith("}}", position) else 0

    def _skip_spaces(self) -> None:
        found = _SPACE_RUN.match(self._source, self._position)
        self._position = found.end() if found else self._position

    def _right_delimiter(self, length: int) -> TemplateToken:
        token = TemplateToken(Kind.RIGHT_DELIMITER, self._position + length - 2, "}}")
        self._position += length
        if length > 2:
            self._skip_spaces()
        self._inside = False
        return token

    def _inside_action(self) -> TemplateToken:
        source, start = self._source, self._position
        length = self._delimiter_length(start)
        if length:
            return self._error(start, "unclosed left paren") if self._depth else self._right_delimiter(length)
        if start >= len(source):
            return self._error(start, "unclosed action")
        first = source[start]
        if first in _SPACES:
            return self._space(start)
        if first in _SIMPLE:
            return self._simple(first, start)
        if first == ":":
            if source[start + 1 : start + 2] != "=":
                return self._error(start, "expected :=")
            return self._emit(Kind.DECLARE, start, start + 2)
        if first in _QUOTED:
            pattern, kind, complaint = _QUOTED[first]
            found = pattern.match(source, start)
            end = found.end() if found else start
            return self._emit(kind, start, end + 1) if source[end : end + 1] == first else self._error(start, complaint)
        if first == "$" or (first == "." and not "0" <= source[start + 1 : start + 2] <= "9"):
            return self._field(Kind.VARIABLE if first == "$" else Kind.FIELD, start)
        if first in ".+-" or "0" <= first <= "9":
            return self._number(start)
        if _is_alphanumeric(first):
            return self._word(start)
        if " " < first <= "~":
            return self._emit(Kind.CHARACTER, start, start + 1)
        return self._error(start, f"unrecognized character in action: {unicode_point(first)}")

    def _simple(self, first: str, start: int) -> TemplateToken:
        self._depth += {"(": 1, ")": -1}.get(first, 0)
        if self._depth < 0:
            return self._error(start, "unexpected right paren")
        return self._emit(_SIMPLE[first], start, start + 1)

    def _space(self, start: int) -> TemplateToken:
        self._skip_spaces()
        end, self._position = self._position, start
        if self._delimiter_length(end - 1) == 4:  # the last of them belongs to the delimiter
            end -= 1
            if end == start:
                return self._right_delimiter(4)
        return self._emit(Kind.SPACE, start, end)

    def _field(self, kind: Kind, start: int) -> TemplateToken:
        if self._ends_word(start + 1):
            return self._emit(Kind.VARIABLE if kind is Kind.VARIABLE else Kind.DOT, start, start + 1)
        end = self._word_end(start + 1)
        return self._emit(kind, start, end) if self._ends_word(end) else self._bad_character(start, end)

    def _word(self, start: int) -> TemplateToken:
        end = self._word_end(start)
        if not self._ends_word(end):
            return self._bad_character(start, end)
        word = self._source[start:end]
        kind = Kind.BOOL if word in ("true", "false") else _KEYWORDS.get(word, Kind.IDENTIFIER)
        return self._emit(kind, start, end)

    def _word_end(self, position: int) -> int:
        source = self._source
        while True:
            found = _ASCII_WORD.match(source, position)
            position = found.end() if found else position
            if position >= len(source) or not _is_alphanumeric(source[position]):
                return position
            position += 1

    def _ends_word(self, position: int) -> bool:
        after = self._source[position : position + 1]
        return not after or after in " \t\r\n.,|:)(" or self._source.startswith("}}", position)

    def _number(self, start: int) -> TemplateToken:
        end = self._number_end(start)
        kind = Kind.NUMBER
        if end is not None and self._source[end : end + 1] in ("+", "-"):
            end = self._number_end(end)
            kind = Kind.COMPLEX
            if end is not None and self._source[end - 1] != "i":
                return self._error(start, f"bad number syntax: {quote(self._source[start:end])}")
        if end is None:
            return self._error(start, f"bad number syntax: {quote(self._source[start : self._position])}")
        return self._emit(kind, start, end)

    def _number_end(self, start: int) -> int | None:
        found = _NUMBER.match(self._source, start)
        end = found.end() if found else start
        after = self._source[end : end + 1]
        if after and _is_alphanumeric(after):
            self._position = end + 1
            return None
        return end

    def _bad_character(self, start: int, position: int) -> TemplateToken:
        return self._error(start, f"bad character {unicode_point(self._source[position])}")

    def _emit(self, kind: Kind, start: int, end: int) -> TemplateToken:
        self._position = end
        return TemplateToken(kind, start, self._source[start:end])

    def _error(self, start: int, text: str) -> TemplateToken:
        self._position, self._inside = len(self._source), False
        return TemplateToken(Kind.ERROR, start, text)


def _is_alphanumeric(character: str) -> bool:
    return character == "_" or character.isalpha() or character.isdecimal()
