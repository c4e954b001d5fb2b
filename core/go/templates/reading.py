"""Looks ahead in the tokens of a Go template, and words the complaints of its parser."""

from __future__ import annotations

from typing import NoReturn

from corral.core.go.templates.tokens import Kind, Lexer, TemplateToken

__all__ = ("TemplateSyntaxError", "TokenReader")

_MOST_TOKENS = 60_000
"""That are parsed in half a second. Large templates have a few thousand."""

_NOTHING = TemplateToken(Kind.END_OF_TEXT, 0, "EOF")


class TemplateSyntaxError(ValueError):
    """The template cannot be parsed; the text is Go's."""


class TokenReader:
    """Tokens with up to three that were put back.

    Go's parser uses one for each ``define``, and takes the line that it complains about from its first place.
    """

    def __init__(self, source: str, lexer: Lexer) -> None:
        self.source = source
        self.lexer = lexer
        self.action_start: int | None = None
        self._waiting = [_NOTHING, _NOTHING, _NOTHING]
        self._count = 0

    def next(self) -> TemplateToken:
        if self._count > 0:
            self._count -= 1
        else:
            self._read()
        return self._waiting[self._count]

    def put_back(self, *earlier: TemplateToken) -> None:
        """Puts the last token back; before it, up to two `earlier` ones, the last of which comes first.

        With `earlier` ones, it does not matter whether the last token has been put back already.
        """
        for place, token in enumerate(earlier, 1):
            self._waiting[place] = token
        self._count = 1 + len(earlier) if earlier else self._count + 1

    def peek(self) -> TemplateToken:
        if self._count > 0:
            return self._waiting[self._count - 1]
        self._count = 1
        self._read()
        return self._waiting[0]

    def _read(self) -> None:
        self._waiting[0] = self.lexer.next()
        if self.lexer.count > _MOST_TOKENS:
            self.fail(f"it has more than {_MOST_TOKENS} tokens")

    def next_word(self) -> TemplateToken:
        """The next token that is not a space."""
        while (token := self.next()).kind is Kind.SPACE:
            pass
        return token

    def peek_word(self) -> TemplateToken:
        token = self.next_word()
        self.put_back()
        return token

    def expect(self, *kinds: Kind, context: str) -> TemplateToken:
        token = self.next_word()
        if token.kind not in kinds:
            self.unexpected(token, context)
        return token

    def _line(self, position: int) -> int:
        return self.source.count("\n", 0, position) + 1

    def unexpected(self, token: TemplateToken, context: str) -> NoReturn:
        if token.kind is not Kind.ERROR:
            self.fail(f"unexpected {token} in {context}")
        started = ""
        line = self._line(self.action_start or 0)
        if self.action_start is not None and line != self._line(token.position):
            started = f" in action started at :{line}"
            if token.text.endswith(" action"):
                started = started.removeprefix(" in action")
        self.fail(f"{token}{started}")

    def fail(self, complaint: object) -> NoReturn:
        raise TemplateSyntaxError(f"template: :{self._line(self._waiting[0].position)}: {complaint}")
