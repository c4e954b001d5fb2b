"""Gives waiting requests a stream, in turns, and the longest prefix of their prompts that is kept anywhere."""

from __future__ import annotations

import time
from collections import deque

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.prefix_tiers import PrefixSource, PrefixTiers
from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.adapters.engines.llama_cpp.step_computation import Computation
from corral.adapters.engines.llama_cpp.streams import Streams
from corral.core.stepping.fair_queue import FairQueue

__all__ = ("Admission",)

_WORTH_COPYING = 16
_WORTH_WAITING = 32
"""Shorter prefixes are computed again rather than copied or waited for."""


class Admission:
    """`waiting` requests become `prefilling` ones. The copies of states are charged to the step."""

    def __init__(
        self,
        context: LlamaContext,
        streams: Streams,
        tiers: PrefixTiers,
        computation: Computation,
        waiting: FairQueue[LlamaSequence],
        prefilling: deque[LlamaSequence],
    ) -> None:
        self._context = context
        self._streams = streams
        self._tiers = tiers
        self._computation = computation
        self._waiting = waiting
        self._prefilling = prefilling

    def admit(self, *, answering: bool) -> None:
        """Call at the beginning of a step; `answering`: whether any answer is being generated."""
        self._tiers.poll()
        while self._may_begin(answering):
            self._begin(self._waiting.popleft())
            self._computation.charge(self._tiers.copied_s())
        for sequence in self._prefilling:
            if sequence.held_up and not (sequence.awaited is not None and sequence.still_waits()):
                sequence.awaited = None
                self._load(sequence)
        self._tiers.admitted()
        self._computation.charge(self._tiers.copied_s())

    def _may_begin(self, answering: bool) -> bool:
        """Whether the next request has a stream to go to that has room for its prompt."""
        if not self._waiting or not self._streams.any_idle or (answering and self._computation.in_debt):
            return False
        return len(self._waiting.first().prompt) <= self._context.cells

    def _begin(self, sequence: LlamaSequence) -> None:
        sequence.began_ns = time.perf_counter_ns()
        source, shared = self._best(sequence)
        for other in self._prefilling:
            soon = sequence.shares(other, len(sequence.prompt))
            if soon >= shared + _WORTH_WAITING and soon > sequence.awaited_length:
                # Another request is computing this prefix: wait for it instead of computing it twice.
                sequence.awaited, sequence.awaited_length = other, soon
        sequence.stream = self._tiers.take(source, shared)
        if sequence.awaited is None:
            self._load(sequence, source, shared)
        else:
            self._streams.cut(sequence.stream, 0)
        self._prefilling.append(sequence)

    def _best(self, sequence: LlamaSequence) -> tuple[PrefixSource | None, int]:
        source, shared = self._tiers.best(sequence.prompt, sequence.cells.reusable(len(sequence.prompt)))
        return source, sequence.cells.reusable(shared)

    def _load(self, sequence: LlamaSequence, source: PrefixSource | None = None, shared: int = 0) -> None:
        """Load its prefix into its stream, or have it read from disk: then this is called again in each step."""
        if source is None:
            source, shared = self._best(sequence)
        sequence.reading = self._tiers.is_reading(source)
        if sequence.reading:
            self._streams.cut(sequence.owned, 0)
            return
        if source is not sequence.stream and shared < _WORTH_COPYING:
            shared = 0
        sequence.cached = self._tiers.load(sequence.owned, source, shared)
