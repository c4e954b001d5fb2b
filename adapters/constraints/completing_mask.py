"""A mask that completes JSON, or a text with JSON in it, before the limit of an answer would cut it off."""

from __future__ import annotations

from corral.adapters.constraints.grammar_mask import GrammarMask
from corral.adapters.constraints.json_endings import JsonEndings, JsonPlace

__all__ = ("CompletingMask",)

_RESERVE = 64
"""Tokens kept on top of the quickest way to the end, since one more token may lead into an object with required keys;
fewer if the whole answer has few.
"""
_CLOSE = 192
_TOKENS_A_CLOSE_LOOK, _ROOM_A_TOKEN = 4, 8
"""How often the way to the end is measured, which takes as long as some tokens do: the closer it is, the more often."""
_LONGEST_WAY = 512
_TOKENS_TILL_NEXT_TRY = 16


class CompletingMask:
    """An `AnswerMask`. While there is room, it allows what the grammar allows; then only what leads to the end.

    Unless the whole text `is_json`, the way to the end may be unknown: then nothing is forbidden, and if that is so
    from the first token on, it is not looked for again. Where such a text may end, it goes on only if there is room for
    as much as it needed from the beginning.
    """

    def __init__(
        self, mask: GrammarMask, endings: JsonEndings, pieces: tuple[bytes, ...], *, is_json: bool = True
    ) -> None:
        self._mask, self._endings, self._pieces = mask, endings, pieces
        self._is_json = is_json
        self._whole: int | None = None
        self._used = 0
        self._most: int | None = None
        self._look_at = 0
        self._reserve = 0
        self._place = JsonPlace()
        self._ending = False

    def limit(self, tokens: int) -> None:
        self._most = tokens
        self._reserve = min(_RESERVE, tokens // 4)

    @property
    def ignored(self) -> tuple[str, ...]:
        return self._mask.ignored

    def spend(self) -> None:
        """A token was used for something other than the text, such as thinking."""
        self._used += 1

    def allowed(self) -> bytes:
        bits = self._mask.allowed()
        if not self._ending and self._most is not None:
            if self._whole is not None and self._endings.may_end(bits):
                self._ending = self._most - self._used <= self._whole + self._reserve
            elif self._used >= self._look_at:
                self._look(self._most - self._used)
        if not self._ending:
            return bits
        narrowed = self._endings.towards_end(int.from_bytes(bits, "little"), self._place)
        return narrowed.to_bytes(len(bits), "little")

    def accept(self, token_id: int) -> None:
        self._mask.accept(token_id)
        self._place.read(self._pieces[token_id])
        self._used += 1

    def _look(self, left: int) -> None:
        most = min(_LONGEST_WAY, max(1, left))
        way = self._endings.distance(self._mask.matcher, self._place, most)
        if not self._is_json:
            if way > most:
                self._look_at = self._used + _TOKENS_TILL_NEXT_TRY
                self._most = None if self._whole is None else self._most
                return
            self._whole = self._whole or way
        room = left - way
        self._ending = room <= self._reserve
        spare = room - self._reserve
        often = room // _ROOM_A_TOKEN if room >= _CLOSE else min(_TOKENS_A_CLOSE_LOOK, spare // _ROOM_A_TOKEN)
        self._look_at = self._used + max(1, often)
