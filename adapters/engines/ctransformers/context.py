"""The only context of a model: computes prompts in pieces on a fixed grid, and reuses whole pieces for the next prompt.

A piece begins at a multiple of its length, so that the same prompt is always divided in the same way, and a reused
piece is identical, bit by bit, to a computed one. Generated tokens are computed one by one and never reused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from corral.adapters.engine_kit.step_timing import Stopwatch
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.ctransformers.native import NativeModel

__all__ = ("Context",)


class Context:
    """Computes one request at a time. `batch` is the length of a piece."""

    def __init__(self, model: NativeModel, tuner: ThreadTuner, *, batch: int) -> None:
        self._model = model
        self._tuner = tuner
        self._batch = batch
        self._kept: list[int] = []
        self._scope = ""
        self._position = 0

    @property
    def vocabulary_size(self) -> int:
        return self._model.vocabulary_size

    @property
    def used(self) -> int:
        """The number of tokens in the context."""
        return self._position

    def begin(self, prompt: Sequence[int], scope: str = "") -> int:
        """Go back to the end of the common prefix with `prompt`; return its length. Prompts of different scopes have
        none.
        """
        limit = min(len(prompt) - 1, len(self._kept)) if scope == self._scope else 0
        self._scope = scope
        # The last token is always computed, for its logits.
        shared = next((place for place in range(limit) if prompt[place] != self._kept[place]), limit)
        self._position = shared - shared % self._batch
        del self._kept[self._position :]
        return self._position

    def prefill(self, prompt: Sequence[int]) -> Iterator[None]:
        """Compute the rest of the prompt; yield after each piece but the last."""
        while self._position < len(prompt):
            piece = prompt[self._position : self._position + self._batch]
            threads = self._tuner.next_threads()
            watch = Stopwatch()
            self._model.evaluate(piece, self._position, threads)
            self._position += len(piece)
            self._tuner.record_prefill(len(piece), watch.read())
            if len(piece) == self._batch:
                self._kept.extend(piece)
            if self._position < len(prompt):
                yield

    def append(self, token_id: int) -> None:
        """Compute one generated token."""
        threads = self._tuner.next_threads()
        watch = Stopwatch()
        self._model.evaluate((token_id,), self._position, threads)
        self._position += 1
        self._tuner.record(1, watch.read())

    def logits(self) -> NDArray[np.float32]:
        """The logits of the last token; valid until the next one is computed."""
        return self._model.logits()

    def embedding(self) -> NDArray[np.float32]:
        """The last token's hidden state."""
        return self._model.embedding()

    def close(self) -> None:
        self._model.close()
