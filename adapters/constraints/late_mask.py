"""A constraint that begins in the middle of an answer, after a certain text or token."""

from __future__ import annotations

from collections.abc import Sequence

from corral.core.errors import InvalidRequest
from corral.core.ports.tokens import RequestMask
from corral.core.stepping.text_watch import TextWatch

__all__ = ("LateMask",)


class LateMask:
    """A `RequestMask` that allows everything until `starts_after`; from the next token on, another mask applies.

    If the text ends inside a token, the rest of that token is not constrained.
    """

    def __init__(self, mask: RequestMask, starts_after: str | int, pieces: Sequence[bytes]) -> None:
        if isinstance(starts_after, int) and not 0 <= starts_after < len(pieces):
            raise InvalidRequest(f"starts_after: token {starts_after} is not in the vocabulary of {len(pieces)}")
        if starts_after == "":
            raise InvalidRequest("starts_after is empty; omit it to begin immediately")
        self._mask = mask
        self._token_id = starts_after if isinstance(starts_after, int) else None
        self._watch = TextWatch(starts_after) if isinstance(starts_after, str) else None
        self._pieces = pieces
        self._begun = False

    @property
    def ignored(self) -> tuple[str, ...]:
        return self._mask.ignored

    def allowed(self) -> bytes | None:
        return self._mask.allowed() if self._begun else None

    def accept(self, token_id: int) -> None:
        if self._begun:
            self._mask.accept(token_id)
        elif self._watch is not None:
            self._begun = self._watch.push(self._pieces[token_id])
        else:
            self._begun = token_id == self._token_id
