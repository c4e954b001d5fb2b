"""DRY ("don't repeat yourself"): a token that would continue a repetition of an earlier passage becomes less likely.

Source: ``llama_sampler_dry_apply`` and ``get_overlapping_token_sequences`` in llama.cpp's ``src/llama-sampler.cpp``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from corral.adapters.engine_kit.sampling.candidates import Logits
from corral.core.requests.requests import SamplingParams

__all__ = ("Dry",)

_MAX_BREAKER_BYTES = 40
_MAX_TAIL_TOKENS = 20
_FLOAT_MAX_LOG = 88.7228391

Tails = tuple[tuple[int, ...], ...]


class Dry:
    """Looks at the last `last_n` tokens. A repetition does not extend across a sequence breaker."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        last_n: int,
        encode: Callable[[str], Sequence[int]],
        decode_piece: Callable[[int], bytes],
    ) -> None:
        self._multiplier = params.dry_multiplier
        self._base = params.dry_base
        self._allowed = params.dry_allowed_length
        self._last_n = last_n
        self._breakers = [text.encode("utf-8", "replace")[:_MAX_BREAKER_BYTES] for text in params.dry_sequence_breakers]
        self._encode = encode
        self._decode_piece = decode_piece
        self._tails: dict[int, Tails] = {}
        self._rests: dict[bytes, tuple[int, ...]] = {}
        self._history = np.empty(2 * last_n, np.int64)
        self._length = 0
        # Beyond this the penalty would overflow a float; longer repetitions count as this long.
        self._max_exponent = int(_FLOAT_MAX_LOG / math.log(self._base)) if self._base > 1.000001 else None

    def remember(self, ids: Sequence[int]) -> None:
        for token_id in ids[-self._last_n :]:
            if self._length == len(self._history):
                self._history[: self._last_n] = self._history[-self._last_n :]
                self._length = self._last_n
            self._history[self._length] = token_id
            self._length += 1

    def apply(self, logits: Logits) -> None:
        """Change `logits` in place. Forbidden tokens stay forbidden."""
        history = self._history[max(0, self._length - self._last_n) : self._length]
        if len(history) <= self._allowed:
            return
        limit = self._limit(history)
        if limit < self._allowed:
            return
        if self._max_exponent is not None:
            limit = min(limit, self._allowed + self._max_exponent)
        runs = _runs(history, limit)
        repeated = runs >= self._allowed
        ids, place = np.unique(history[1:][repeated], return_inverse=True)
        longest = np.zeros(len(ids), np.int64)
        np.maximum.at(longest, place, runs[repeated])
        for token_id, run in zip(ids.tolist(), longest.tolist(), strict=True):
            if () not in self._tails_of(token_id):
                logits[token_id] -= np.float32(min(self._multiplier * self._base ** (run - self._allowed), 1e30))

    def _limit(self, history: npt.NDArray[np.int64]) -> int:
        """How far back a repetition may reach: to the nearest sequence breaker."""
        if not self._breakers:
            return len(history)
        backwards = history[::-1].tolist()
        for distance, token_id in enumerate(backwards):
            lengths = [
                len(tail)
                for tail in self._tails_of(token_id)
                if len(tail) <= distance and list(tail) == backwards[distance - len(tail) : distance][::-1]
            ]
            if lengths:
                return distance - max(lengths)
        return len(history)

    def _tails_of(self, token_id: int) -> Tails:
        """The ids that complete a breaker after this token: ``()`` if the token contains a whole one."""
        known = self._tails.get(token_id)
        if known is None:
            word = self._decode_piece(token_id)
            found = {tail: None for breaker in self._breakers for tail in self._overlaps(word, breaker)}
            known = self._tails[token_id] = tuple(found)
        return known

    def _overlaps(self, word: bytes, breaker: bytes) -> list[tuple[int, ...]]:
        if not breaker:
            return []
        if breaker in word:
            return [()]
        return [
            self._tail(breaker[length:])
            for length in range(min(len(word), len(breaker) - 1), 0, -1)
            if word.endswith(breaker[:length])
        ]

    def _tail(self, rest: bytes) -> tuple[int, ...]:
        """The ids of the rest of a breaker: tokenized once, however many tokens end with its beginning."""
        known = self._rests.get(rest)
        if known is None:
            known = tuple(self._encode(rest.decode("utf-8", "replace")))[:_MAX_TAIL_TOKENS]
            self._rests[rest] = known
        return known


def _runs(history: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """For each place but the last: how many tokens up to it match the end of the history, at most `limit`.

    All lengths grow together, with one comparison of the remaining places per round: usually few remain after the
    first.
    """
    last = len(history) - 1
    runs = np.zeros(last, np.int64)
    alive = np.arange(last)
    for length in range(limit):
        alive = alive[alive >= length]
        alive = alive[history[alive - length] == history[last - length]]
        if not len(alive):
            break
        runs[alive] = length + 1
    return runs
