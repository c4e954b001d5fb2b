"""Measures, when a model is loaded, whether rows of one sequence that are computed together are what each is alone.

What products compute has been compared before (`exactness`), one stream at a time: attention by products computes a
single row with another kernel than several (on x86, whatever the weights), which logits would show in one row of ten.
Here, several rows of a stream are computed beside a row of another one, and with what follows from them.
"""

from __future__ import annotations

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch

__all__ = ("rows_together_are_exact",)

_PROMPT = 16
_ROWS = 4


def rows_together_are_exact(context: LlamaContext, batch: Batch, streams: int) -> bool:
    """Whether logits and memory of several rows of one sequence are to the bit those of one row at a time. Memory is
    empty before and after. Costs thirty tokens.
    """
    size = context.model.vocabulary_size
    tokens = [(7919 * (at + 1)) % max(1, size - 1) for at in range(_PROMPT + _ROWS)]
    rows = [(token, at, 0) for at, token in enumerate(tokens)][_PROMPT:]
    try:
        batch.fill_chunk(tokens[:_PROMPT], 0, 0, last=True)
        return context.decode(batch) == 0 and _are_exact(context, batch, rows, streams)
    finally:
        context.clear()


def _are_exact(context: LlamaContext, batch: Batch, rows: list[tuple[int, int, int]], streams: int) -> bool:
    """The first stream has what comes before the rows."""
    before = context.save(0)
    together = _logits(context, batch, rows)
    after = bytes(context.save(0))
    context.trim(0, _PROMPT)
    alone = [_logits(context, batch, [row]) for row in rows]
    if together is None or [one and one[0] for one in alone] != together or bytes(context.save(0)) != after:
        return False
    if streams == 1:
        return True
    context.trim(0, _PROMPT)
    context.restore(1, before)
    token, position, _ = rows[0]
    beside = _logits(context, batch, [*rows, (token, position, 1)])
    return beside is not None and beside[:-1] == together and bytes(context.save(0)) == after


def _logits(context: LlamaContext, batch: Batch, rows: list[tuple[int, int, int]]) -> list[bytes] | None:
    batch.fill_rows(rows)
    if context.decode(batch) != 0:
        return None
    return [context.logits(at).tobytes() for at in range(len(rows))]
