"""Measures, when a model is loaded, whether its texts depend on what else runs.

Whether a row of a matrix product comes out the same alone and among others depends on the kernel, and therefore on the
weights' types, the processor and the build. Instead of looking it up in a table, a few tokens are computed in several
ways, and the logits are compared bit by bit. Flash attention must be off: with it, chunk boundaries and neighbours
change the order of sums.

What was found on three kinds of x86 machines: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 agree throughout; F16, BF16 and F32
agree from two rows on, since a single row uses another kernel; K-quants and IQ4_NL do not agree. A chunk of one prompt
token never agrees with a longer one (attention uses another kernel); therefore prompts are computed in chunks of two or
more, and generated tokens are not reused as a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.core.values import Value

__all__ = ("Exactness", "measure_exactness")

_PROMPT = 10
_CHUNKINGS = ((2, 8), (3, 3, 4))


class Exactness(Value, frozen=True, kw_only=True):
    """`exact`: texts do not depend on what else runs. `pair_rows`: provided that no decode computes one row alone.
    `rows_are_prompt`: a generated token comes out as the same token within a prompt.
    """

    exact: bool
    pair_rows: bool = False
    rows_are_prompt: bool = False
    reason: str

    @property
    def told(self) -> str:
        """What ``details.exact`` says."""
        return f"{'yes' if self.exact else 'no'}: {self.reason}"


def measure_exactness(context: LlamaContext, batch: Batch, streams: int) -> Exactness:
    """Costs about fifty tokens; the memory is empty before and after."""
    size = context.model.vocabulary_size
    tokens = [(7919 * (i + 1)) % max(1, size - 1) for i in range(_PROMPT + 1)]
    try:
        whole = _prefill(context, batch, tokens[:_PROMPT], (_PROMPT,), 0)
        if whole is None:
            return Exactness(exact=False, reason="a trial decode failed")
        for chunking in _CHUNKINGS:
            if not _equal(_prefill(context, batch, tokens[:_PROMPT], chunking, 0), whole):
                return Exactness(exact=False, reason="its kernels depend on how a prompt is split")
        if streams == 1:
            return Exactness(exact=True, pair_rows=False, reason="one request at a time")
        state = context.save(0)
        for stream in range(1, streams):
            context.restore(stream, state)
        together = _decode(context, batch, tokens[_PROMPT], range(streams))
        counts = sorted({2, 3, streams - 1} & set(range(2, streams)))
        if not all(_equal(_decode(context, batch, tokens[_PROMPT], range(count)), together) for count in counts):
            return Exactness(exact=False, reason="its kernels depend on how many requests run")
        alone = _equal(_decode(context, batch, tokens[_PROMPT], range(1)), together)
        return Exactness(
            exact=True,
            pair_rows=not alone,
            reason="measured at load" if alone else "measured at load; a lone request is computed with an idle row",
        )
    finally:
        context.clear()


def _prefill(
    context: LlamaContext, batch: Batch, tokens: Sequence[int], chunking: Sequence[int], stream: int
) -> npt.NDArray[np.float32] | None:
    context.trim(stream, 0)
    position = 0
    for count in chunking:
        batch.fill_chunk(tokens[position : position + count], position, stream, last=True)
        if context.decode(batch) != 0:
            return None
        position += count
    return context.logits(chunking[-1] - 1).copy()


def _decode(context: LlamaContext, batch: Batch, token: int, streams: range) -> npt.NDArray[np.float32] | None:
    batch.fill_rows([(token, _PROMPT, stream) for stream in streams])
    logits = context.logits(0).copy() if context.decode(batch) == 0 else None
    for stream in streams:
        context.trim(stream, _PROMPT)
    return logits


def _equal(left: npt.NDArray[np.float32] | None, right: npt.NDArray[np.float32] | None) -> bool:
    return left is not None and right is not None and left.tobytes() == right.tobytes()
