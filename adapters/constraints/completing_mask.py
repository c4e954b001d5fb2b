"""A mask that completes a JSON text before the limit of an answer would cut it off."""

from __future__ import annotations

from corral.adapters.constraints.grammar_mask import GrammarMask
from corral.adapters.constraints.json_endings import JsonEndings, JsonPlace

__all__ = ("CompletingMask",)

_RESERVE = 64
"""Tokens kept on top of the quickest way to the end, since one more token may lead into an object with required keys;
fewer if the whole answer has few.
"""
_CLOSE = 192
_TOKENS_A_LOOK, _TOKENS_A_CLOSE_LOOK = 32, 4
"""How often the way to the end is measured, which takes as long as some tokens do; more often the closer it is."""
_LONGEST_WAY = 512


class CompletingMask:
    """A `RequestMask`. While there is room, it allows what the grammar allows; then only what leads to the end."""

    def __init__(self, mask: GrammarMask, endings: JsonEndings, pieces: tuple[bytes, ...], max_tokens: int) -> None:
        """`max_tokens` are left for the answer, the one that ends it included."""
        self._mask, self._endings, self._pieces = mask, endings, pieces
        self._left = max_tokens
        self._reserve = min(_RESERVE, max_tokens // 4)
        self._place = JsonPlace()
        self._look_at = max_tokens
        self._ending = False

    @property
    def ignored(self) -> tuple[str, ...]:
        return self._mask.ignored

    def spend(self) -> None:
        """A token was used for something other than the text, such as thinking."""
        self._left -= 1

    def allowed(self) -> bytes:
        bits = self._mask.allowed()
        if not self._ending and self._left <= self._look_at:
            self._look()
        if not self._ending:
            return bits
        narrowed = self._endings.towards_end(int.from_bytes(bits, "little"), self._place)
        return narrowed.to_bytes(len(bits), "little")

    def accept(self, token_id: int) -> None:
        self._mask.accept(token_id)
        self._place.read(self._pieces[token_id])
        self._left -= 1

    def _look(self) -> None:
        way = self._endings.distance(self._mask.matcher, self._place, min(_LONGEST_WAY, max(1, self._left)))
        room = self._left - way
        self._ending = room <= self._reserve
        self._look_at = self._left - (_TOKENS_A_CLOSE_LOOK if room < _CLOSE else _TOKENS_A_LOOK)
