"""A mask that completes JSON, or a text with JSON in it, before the limit of an answer would cut it off."""

from __future__ import annotations

from corral.adapters.constraints.completions import Completion
from corral.adapters.constraints.grammar_mask import GrammarMask
from corral.adapters.constraints.json_endings import JsonEndings, JsonPlace, fits

__all__ = ("CompletingMask",)

_NEAR = 64
"""Tokens to spare from which on each choice is measured, since one token may lead into an object with required keys;
more if the whole answer takes more.
"""
_ROOM_A_TOKEN = 8
"""How much further away the end may be after a token, on average, while the limit is far."""
_LONGEST_WAY = 512
_TOKENS_TILL_NEXT_TRY = 16
_MOST_MEASURED = 256
"""Tokens that are measured at one place: there are more only where nearly everything is allowed."""


class CompletingMask:
    """An `AnswerMask`. It allows what the grammar allows, and forbids a token only if too few would be left after it
    for the quickest way to the end: an answer that fits within the limit is what it would be without one.

    Unless the whole text `is_json`, the way to the end may be unknown: then nothing is forbidden, and if that is so
    from the first token on, it is not looked for again. A JSON text that cannot be completed takes the quickest way.
    """

    def __init__(
        self, mask: GrammarMask, endings: JsonEndings, pieces: tuple[bytes, ...], *, is_json: bool = True
    ) -> None:
        self._mask, self._endings, self._pieces = mask, endings, pieces
        self._is_json = is_json
        self._used = 0
        self._most: int | None = None
        self._look_at = 0
        self._near = _NEAR
        self._place = JsonPlace()
        self._completion: Completion | None = None
        self._at = 0
        self._was_known = False
        self._is_newest = False  # the text has followed the completion since it was found
        self._measured: dict[int, int | None] = {}
        self._measured_at: tuple[Completion, int, int] | None = None
        self._shortened = False

    def limit(self, tokens: int) -> None:
        self._most = tokens

    @property
    def ignored(self) -> tuple[str, ...]:
        return self._mask.ignored

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self._shortened:
            return ()
        return (
            f"{self._mask.subject}: the limit of tokens was near, so the JSON was completed early: "
            "what it says may be cut short",
        )

    def spend(self) -> None:
        """A token was used for something other than the text, such as thinking."""
        self._used += 1

    def allowed(self) -> bytes:
        bits = self._mask.allowed()
        if self._most is None or self._used < self._look_at:
            return bits
        left = self._most - self._used
        possible = int.from_bytes(bits, "little")
        completion = None if self._endings.is_free_text(possible, self._place) else self._nearest(left)
        if completion is None:
            return self._unknown(possible).to_bytes(len(bits), "little")
        room = left - completion.count(self._at)
        if room > self._near:
            self._look_at = self._used + max(1, (room - self._near) // _ROOM_A_TOKEN)
            return bits
        kept = self._kept(possible, completion, left)
        self._notice(possible, kept, room)
        return kept.to_bytes(len(bits), "little")

    def accept(self, token_id: int) -> None:
        self._mask.accept(token_id)
        self._place.read(self._pieces[token_id])
        self._used += 1
        if self._completion is not None:
            place = self._completion.follow(self._at, token_id)
            self._is_newest = self._is_newest and place is not None
            self._at = self._at if place is None else place

    def _nearest(self, left: int) -> Completion | None:
        """A completion from here on; the known one as long as it is one, and there is room for it."""
        known, matcher = self._completion, self._mask.matcher
        if known is not None and not self._is_newest and not fits(matcher, known.tokens(self._at)):
            known = None
        if known is None or (known.count(self._at) >= left and not self._is_newest):
            newest = self._endings.completion(matcher, self._place, min(_LONGEST_WAY, max(1, left)))
            if known is None or (newest is not None and newest.count(0) < known.count(self._at)):
                if newest is not None and not self._was_known:
                    self._was_known, self._near = True, max(_NEAR, newest.count(0))
                self._completion, self._at = newest, 0
            self._is_newest = True
        if self._completion is not None and self._completion.count(self._at) > left:
            return None
        return self._completion

    def _unknown(self, possible: int) -> int:
        if self._is_json:
            return self._endings.towards_end(possible, self._place)
        if not self._was_known:
            self._most = None
        self._look_at = self._used + _TOKENS_TILL_NEXT_TRY
        return possible

    def _kept(self, possible: int, completion: Completion, left: int) -> int:
        """Those of the `possible` tokens after which there is room for a way to the end."""
        kept = possible & self._endings.ends
        for token_id, size in completion.ways(self._at):
            if completion.count(self._at + size) < left:
                kept |= 1 << token_id
        kept &= possible
        room = left - 1 - completion.count(self._at)
        kept |= self._endings.harmless(possible, self._place, room)
        matcher = self._mask.matcher
        rest = possible & ~kept
        if self._place.in_string and self._endings.is_free_string(possible):
            rest = self._endings.quoted(rest)
        elif self._place.in_string:
            kept |= self._endings.letters(rest, matcher, completion, self._at, left - 1)
            rest &= ~kept
        where = (completion, self._at, possible)
        if self._measured_at != where:
            self._measured_at, self._measured = where, {}
        for _ in range(_MOST_MEASURED):
            if not rest:
                break
            lowest = rest & -rest
            rest ^= lowest
            if self._is_room_after(lowest.bit_length() - 1, completion, left - 1):
                kept |= lowest
        return kept

    def _is_room_after(self, token_id: int, completion: Completion, left: int) -> bool:
        if token_id not in self._measured:
            self._measured[token_id] = self._endings.after(
                token_id, self._mask.matcher, self._place, completion, self._at, left
            )
        count = self._measured[token_id]
        return count is not None and count <= left

    def _notice(self, possible: int, kept: int, room: int) -> None:
        """Whether a text or a list had to end here, though the model might have gone on."""
        forbidden = possible & ~kept
        if self._place.in_string:
            self._shortened |= room == 0 and bool(forbidden)
        elif not (possible & self._endings.ends or kept & self._endings.more):
            self._shortened |= bool(forbidden & self._endings.more)
