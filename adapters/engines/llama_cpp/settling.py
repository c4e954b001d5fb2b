"""Computes finished answers once more, as parts of a prompt, so that the next turn of a conversation finds them.

While texts are exact, generated tokens are no prefix of another prompt, since they were computed as single rows. After
an answer, nobody waits for anything until the user has read it: time enough to compute it as a prompt would.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.adapters.engines.llama_cpp.step_computation import Computation
from corral.adapters.engines.llama_cpp.streams import CacheStream, Streams

__all__ = ("Settling",)

_PIECE_S = 0.05
_MOST_GROWTH = 2.0


class Settling:
    """The background work of an engine whose generated tokens are not reusable as they are. One thread owns it.

    A stream's `unsettled` tokens are those that its answer had after the reusable ones. Whatever else happens to the
    stream drops them.
    """

    def __init__(
        self, streams: Streams, computation: Computation, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._streams = streams
        self._computation = computation
        self._clock = clock
        self._piece: float | None = None

    def ended(self, sequence: LlamaSequence) -> None:
        """Call when an answer has ended, before its stream is released.

        The token that ended it counts as well: in the next turn, it ends the answer in the prompt. What was computed in
        a context that has been shifted can be part of no prompt.
        """
        stream = sequence.owned
        if sequence.pending < 0 or sequence.shifted:
            return
        tail = [*stream.tokens[stream.reusable :], sequence.pending]
        room = self._streams.room(stream) + len(stream.tokens) - stream.reusable
        del tail[max(0, room - 1) :]  # an idle row may need the last cell
        if len(tail) >= self._computation.smallest_chunk > 1 and self._streams.cut(stream, stream.reusable) > 0:
            stream.unsettled = tail

    def piece(self) -> float | None:
        """Compute a piece of the answer that ended last. As `IdlingEngine.idle`; raises `EngineError`."""
        stream = self._latest()
        if stream is None:
            return None
        if self._piece is None:
            self._piece = self._computation.prefill_rate * _PIECE_S
        tail, stream.unsettled = stream.unsettled, []  # given up if it fails
        count = self._computation.chunk(len(tail), max(self._computation.fewest, int(self._piece)))
        began = self._clock()
        if not self._computation.known(stream, tail[:count]):
            stream.unsettled, self._piece = tail, None
            return 0.0
        took = max(self._clock() - began, 1e-9)
        stream.unsettled = tail[count:]
        self._piece = min(count * _PIECE_S / took, self._piece * _MOST_GROWTH)
        return None if self._latest() is None else 0.0

    def _latest(self) -> CacheStream | None:
        waiting = (stream for stream in self._streams if stream.unsettled and not stream.busy)
        return max(waiting, key=lambda stream: stream.last_used, default=None)
