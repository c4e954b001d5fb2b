"""Chooses the continuation for a request: one that already begins with its prompt, if there is one.

The continuation of a finished request is kept and rewound, so that the next turn of a chat need not compute the earlier
ones. Two requests never share one; nothing is copied between them.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.engines.onnx_genai.native import Continuation, GenAiModel
from corral.core.errors import EngineError

__all__ = ("Continuations", "shared_pieces")


def shared_pieces(first: Sequence[int], second: Sequence[int], piece: int) -> int:
    """How many tokens two prompts have in common, in whole pieces."""
    limit = min(len(first), len(second))
    start = 0
    while start + piece <= limit and first[start : start + piece] == second[start : start + piece]:
        start += piece
    return start


class Continuations:
    """Up to `count` continuations of `max_length` tokens each. Idle ones keep their memory until it is needed."""

    def __init__(self, model: GenAiModel, *, count: int, max_length: int, piece: int) -> None:
        self._model = model
        self._count = count
        self._max_length = max_length
        self._piece = piece
        self._idle: list[tuple[Continuation, list[int]]] = []  # the longest unused first
        self._in_use = 0

    @property
    def free(self) -> bool:
        """Whether another one is free."""
        return self._in_use < self._count

    def take(self, keys: list[int]) -> Continuation:
        """Take a continuation that holds as many whole pieces of the prompt with these keys (see `scoped_keys`) as
        possible, but never its last token.

        Raises `EngineError`, `OutOfMemory`.
        """
        best, most = -1, 0
        for place, (_, known) in enumerate(self._idle):
            shared = shared_pieces(known, keys[:-1], self._piece)
            if shared > most:
                best, most = place, shared
        if best < 0 and len(self._idle) + self._in_use >= self._count:
            best = 0
        continuation = None
        if best >= 0:
            continuation, _ = self._idle.pop(best)
            try:
                continuation.rewind(most)
            except EngineError:  # some kinds of models cannot do this
                continuation = None
        if continuation is None:
            continuation = self._model.begin(self._max_length)
        self._in_use += 1
        return continuation

    def give_back(self, continuation: Continuation, keys: Sequence[int]) -> None:
        """Return a continuation.

        `keys` are those it was taken for; what follows was computed differently and is not reused.
        """
        self._in_use -= 1
        self._idle.append((continuation, list(keys[: continuation.length])))

    def drop(self) -> None:
        """Count a taken continuation that failed as gone."""
        self._in_use -= 1

    def close(self) -> None:
        """Free them all, and the model."""
        self._idle.clear()
        self._model.close()
