"""Measures, when a model is loaded, whether rows of one sequence that are computed together are what each is alone.

Attention computes a single row with another kernel than several (on x86, whatever the weights). Where the next product
quantizes its input (Q8_0, Q4_0, Q4_1), this shows only if a value is just then rounded differently: on AVX-512, in one
of ten rows of SmolLM2 (30 layers of 576 values). So as many rows are compared as it takes for ten such chances, and the
first difference ends it.
"""

from __future__ import annotations

import llama_cpp as C

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch

__all__ = ("rows_together_are_exact",)

_PROMPT = 16
_ROWS = 8
_VALUES = 2_000_000
"""A difference between kernels shows in about one of 200,000 values that are quantized."""
_MOST_ROUNDS = 24


def rows_together_are_exact(context: LlamaContext, batch: Batch, streams: int) -> bool:
    """Whether logits and memory of several rows of one sequence are to the bit those of one row at a time. Memory is
    empty before and after.

    A round costs about 25 tokens. Most differences show in the first; a model of 7 billion parameters has two at most.
    """
    model = context.model
    values = int(C.llama_model_n_layer(model.handle)) * model.embedding_size
    rounds = min(_MOST_ROUNDS, (context.num_ctx - _PROMPT) // _ROWS, 1 + _VALUES // max(1, values * _ROWS))
    tokens = [(7919 * (at + 1)) % max(1, model.vocabulary_size - 1) for at in range(_PROMPT + _ROWS * rounds)]
    try:
        batch.fill_chunk(tokens[:_PROMPT], 0, 0, last=True)
        if rounds < 1 or context.decode(batch) != 0:
            return False
        starts = range(_PROMPT, len(tokens), _ROWS)
        return all(_round_is_exact(context, batch, tokens[start : start + _ROWS], start, streams) for start in starts)
    finally:
        context.clear()


def _round_is_exact(context: LlamaContext, batch: Batch, tokens: list[int], start: int, streams: int) -> bool:
    """The first stream has `start` tokens before, and `tokens` as well after."""
    rows = [(token, start + at, 0) for at, token in enumerate(tokens)]
    before = context.save(0)
    together = _logits(context, batch, rows)
    after = bytes(context.save(0))
    context.trim(0, start)
    alone = [_logits(context, batch, [row]) for row in rows]
    if together is None or [one and one[0] for one in alone] != together or bytes(context.save(0)) != after:
        return False
    if streams == 1:
        return True
    context.trim(0, start)
    context.restore(1, before)
    beside = _logits(context, batch, [*rows, (tokens[0], start, 1)])
    context.trim(1, 0)
    return beside is not None and beside[:-1] == together and bytes(context.save(0)) == after


def _logits(context: LlamaContext, batch: Batch, rows: list[tuple[int, int, int]]) -> list[bytes] | None:
    batch.fill_rows(rows)
    if context.decode(batch) != 0:
        return None
    return [context.logits(at).tobytes() for at in range(len(rows))]
