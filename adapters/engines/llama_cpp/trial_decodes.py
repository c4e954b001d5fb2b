"""Finds out by trying what a new context can do, and how fast it is. Its memory is empty before and after."""

from __future__ import annotations

import time

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.core.errors import EngineError

__all__ = ("can_move", "can_trim", "time_decode")

_TOKENS = (11, 7919, 5, 3, 2)


def time_decode(context: LlamaContext, batch: Batch, threads: int) -> float:
    """Seconds to decode two tokens with this many threads."""
    context.set_threads(threads)
    batch.fill_chunk([0, 0], 0, 0, last=True)
    began = time.perf_counter()
    context.decode(batch)
    took = time.perf_counter() - began
    context.trim(0, 0)
    return took


def can_trim(context: LlamaContext, batch: Batch) -> bool:
    """Whether memory can be truncated."""
    batch.fill_chunk([0, 0, 0, 0], 0, 0, last=True)
    trimmed = context.decode(batch) == 0 and context.trim(0, 2)
    context.clear()
    return trimmed


def can_move(source: LlamaContext, target: LlamaContext, batch: Batch) -> bool:
    """Whether streams can move between contexts of these sizes: what comes next must be the same, bit by bit."""
    if source.model.sliding_window:
        return False  # cells that have left the window are not saved, so that a prefix could not be cut any more
    size = source.model.vocabulary_size
    tokens = [token % size for token in _TOKENS]
    source.portable = target.portable = True
    last = source.size.streams - 1
    try:
        batch.fill_chunk(tokens[:-1], 0, last, last=True)
        moved = source.decode(batch) == 0 and target.restore(0, source.save(last))
        return moved and _next_logits(source, batch, tokens[-1], last) == _next_logits(target, batch, tokens[-1], 0)
    except EngineError:
        return False
    finally:
        source.clear()
        target.clear()


def _next_logits(context: LlamaContext, batch: Batch, token: int, stream: int) -> bytes:
    batch.fill_rows([(token, len(_TOKENS) - 1, stream)])
    if context.decode(batch) != 0:
        raise EngineError("a trial decode failed")
    return context.logits(0).tobytes()
