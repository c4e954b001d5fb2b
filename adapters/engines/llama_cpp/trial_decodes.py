"""Finds out by trying what a new context can do, and how fast it is. Its memory is empty before and after."""

from __future__ import annotations

import time

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch

__all__ = ("can_trim", "time_decode")


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
