"""How fast two models are: each task in turns by both, several times, and the fastest counts.

A machine that does something else in between only makes a run slower, never faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from msgspec import structs

from corral.adapters.engines.llama_cpp.exactness import measure_exactness
from corral.adapters.engines.llama_cpp.filler_rows import filler_rows
from corral.adapters.engines.llama_cpp.kernel_trace import KernelTrace
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.core.errors import EngineError
from corral.core.values import Value

__all__ = ("STREAMS", "STREAM_TOKENS", "Racer", "Speeds", "race")

STREAMS, STREAM_TOKENS = 8, 128
_PROMPT_TOKENS = 512
_STEPS = 12
_ROUNDS = 5
_LONGEST_PROMPT_S = 3.0


class Speeds(Value, frozen=True, kw_only=True):
    """In tokens per second; see `ModelFigures`."""

    prompt: float
    decode: float
    eight: float
    exact: bool


class Racer:
    """A model with two contexts: `whole` of one stream for prompts, `shared` of `STREAMS` streams for answers."""

    def __init__(self, whole: LlamaContext, shared: LlamaContext) -> None:
        self._whole = whole
        self._shared = shared
        self._batch = Batch(_PROMPT_TOKENS)
        self._size = max(1, whole.model.vocabulary_size - 1)
        trace = KernelTrace()
        params = structs.replace(shared.params, observer=trace.callback)
        with closing(LlamaContext(shared.model, params, shared.size, threads=shared.threads)) as trial:
            self.exactness = measure_exactness(trial, trace, self._batch, STREAMS)

    def prompt_s(self, tokens: int) -> float:
        """Seconds for a prompt of so many tokens."""
        self._whole.clear()
        self._batch.fill_chunk([(7919 * (at + 1)) % self._size for at in range(tokens)], 0, 0, last=True)
        return _timed(self._whole, self._batch)

    def decode_s(self, streams: int) -> float:
        """Seconds for a token in each of so many streams, as the engine computes them: with idle rows where it does."""
        self._shared.clear()
        busy = range(streams)
        pair_rows = self.exactness.exact and self.exactness.pair_rows
        rows = sorted({*busy, *filler_rows(busy, STREAMS, pair_rows=pair_rows)})
        took = []
        for position in range(_STEPS):
            self._batch.fill_rows([(position % self._size, position, stream) for stream in rows])
            took.append(_timed(self._shared, self._batch))
        return sum(sorted(took)[: _STEPS // 2]) / (_STEPS // 2)

    def prompt_tokens(self) -> int:
        """How long a prompt can be without taking minutes on a slow machine."""
        self.prompt_s(32)  # reads the weights
        took = self.prompt_s(32)
        most = min(_PROMPT_TOKENS, self._whole.num_ctx)
        return max(32, min(most, int(32 * _LONGEST_PROMPT_S / max(took, 1e-9)) // 32 * 32))


def race(racers: Sequence[Racer], on_share: Callable[[float], None]) -> list[Speeds]:
    """The speeds of each, in their order."""
    length = min(racer.prompt_tokens() for racer in racers)
    tasks: list[Callable[[Racer], float]] = [
        lambda racer: racer.prompt_s(length),
        lambda racer: racer.decode_s(1),
        lambda racer: racer.decode_s(STREAMS),
    ]
    best = [[float("inf")] * len(tasks) for _ in racers]
    for number in range(_ROUNDS):
        for at, task in enumerate(tasks):
            for racer, times in zip(racers, best, strict=True):
                times[at] = min(times[at], task(racer))
        on_share((number + 1) / _ROUNDS)
    return [
        Speeds(prompt=length / prompt_s, decode=1 / decode_s, eight=STREAMS / eight_s, exact=racer.exactness.exact)
        for racer, (prompt_s, decode_s, eight_s) in zip(racers, best, strict=True)
    ]


def _timed(context: LlamaContext, batch: Batch) -> float:
    began = time.perf_counter()
    code = context.decode(batch)
    took = time.perf_counter() - began
    if code != 0:
        raise EngineError(f"llama.cpp could not decode (code {code})")
    return max(took, 1e-9)
