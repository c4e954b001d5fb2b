"""The mask of a grammar: which tokens may come next in one answer."""

from __future__ import annotations

from typing import Any

from corral.adapters.constraints.grammars import complaint_about
from corral.core.errors import InvalidRequest
from corral.core.requests.requests import Constraint

__all__ = ("GrammarMask",)


class GrammarMask:
    """A `RequestMask` around llguidance's matcher for one answer."""

    def __init__(self, constraint: Constraint, matcher: Any, vocabulary_size: int) -> None:
        self._constraint = constraint
        self.subject = constraint.subject
        self.matcher = matcher
        self._size_bytes = (vocabulary_size + 7) // 8
        self._check()
        self.ignored = tuple(f"{constraint.subject}: {warning}" for warning in matcher.get_grammar_warnings())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Nothing is shortened."""
        return ()

    def allowed(self) -> bytes:
        bits: bytes = self.matcher.compute_bitmask()[: self._size_bytes]
        self._check()
        return bits

    def accept(self, token_id: int) -> None:
        if not self.matcher.consume_token(token_id):
            self._check()
            raise InvalidRequest(f"token {token_id} was chosen, which the format does not allow")

    def limit(self, tokens: int) -> None:
        """Nothing depends on how many tokens an answer has."""

    def spend(self) -> None:
        """The same."""

    def _check(self) -> None:
        if self.matcher.is_error():
            raise InvalidRequest(complaint_about(self._constraint, self.matcher.get_error()))
