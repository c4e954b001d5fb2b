"""Measures, when a model is loaded, whether its texts depend on what else runs.

Whether a row of a matrix product comes out the same alone and among others depends on the kernel, and therefore on the
weights' types, the processor and the build. Instead of looking it up in a table, a few tokens are computed in several
ways, and what every product computes is compared bit by bit. Flash attention must be off, or compute row by row
(`ContextSettings.attends_by_row`): with its kernels for long chunks and long contexts, which the few tokens here do not
reach, chunk boundaries and neighbours change the order of sums.

What was found on x86 machines: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 agree in chunks of two or more, and in any number of
rows; F16, BF16 and F32 agree from two rows on, since a single row uses another kernel. K-quants agree in chunks of
eight or more and in up to seven rows if they are not repacked; IQ4_NL agrees throughout if it is not. A single row
differs from the same token in a prompt, since attention uses another kernel; therefore generated tokens are no prefix,
unless attention computes row by row, and weights are not K-quants.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.engines.llama_cpp.kernel_trace import KernelTrace, TracedRow
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.core.values import Value

__all__ = ("Exactness", "measure_exactness")

_PROMPT = 19
_FEWEST = 2
_CHUNKINGS = {_FEWEST: (2, 3, 4, 10), 8: (9, 10)}
"""By their smallest chunk. Kernels that take rows by four or eight have another one for the rest."""
_FEW_ROWS = 7
_MANY_ROWS = 8


class Exactness(Value, frozen=True, kw_only=True):
    """`exact`: texts do not depend on what else runs, provided that no chunk of a prompt is shorter than
    `smallest_chunk`, that no decode computes more than `most_rows`, and, with `pair_rows`, that none computes one row
    alone. `rows_are_prompt`: a generated token comes out as the same token within a prompt.
    """

    exact: bool
    pair_rows: bool = False
    rows_are_prompt: bool = False
    smallest_chunk: int = 1
    most_rows: int | None = None
    reason: str

    @property
    def told(self) -> str:
        """What ``details.exact`` says."""
        return f"{'yes' if self.exact else 'no'}: {self.reason}"


def measure_exactness(context: LlamaContext, trace: KernelTrace, batch: Batch, streams: int) -> Exactness:
    """Costs about sixty tokens; the memory is empty before and after. The context must be observed by the trace."""
    return _Measurement(context, trace, batch, streams).result()


class _Measurement:
    def __init__(self, context: LlamaContext, trace: KernelTrace, batch: Batch, streams: int) -> None:
        self._context = context
        self._trace = trace
        self._batch = batch
        self._streams = streams
        size = context.model.vocabulary_size
        self._tokens = [(7919 * (i + 1)) % max(1, size - 1) for i in range(_PROMPT + 1)]

    def result(self) -> Exactness:
        try:
            return self._measured()
        finally:
            self._context.clear()

    def _measured(self) -> Exactness:
        whole = self._prompt((_PROMPT,))
        if whole is None:
            return Exactness(exact=False, reason="a trial decode failed")
        smallest = next((least for least, sizes in _CHUNKINGS.items() if _same(self._prompt(sizes), whole)), None)
        if smallest is None:
            return Exactness(exact=False, reason="its kernels depend on how a prompt is split")
        self._context.trim(0, _PROMPT - 1)
        state = self._context.save(0)
        counts = sorted({min(count, self._streams) for count in (1, 2, _FEW_ROWS, _MANY_ROWS)})
        for stream in range(1, counts[-1]):
            self._context.restore(stream, state)
        rows = {count: self._rows(count) for count in counts}
        usual = rows.get(2, rows[1])
        if usual is None:
            return Exactness(exact=False, reason="a trial decode failed")
        differing = [count for count, found in rows.items() if count > 1 and not _same(found, usual[:1] * count)]
        if differing and differing[0] <= _FEW_ROWS:
            return Exactness(exact=False, reason="its kernels depend on how many requests run")
        pair_rows = not _same(rows[1], usual[:1])
        rows_are_prompt = _same(usual[:1], whole[-1:])
        return Exactness(
            exact=True,
            pair_rows=pair_rows,
            rows_are_prompt=rows_are_prompt,
            smallest_chunk=1 if smallest == _FEWEST and rows_are_prompt and not pair_rows else smallest,
            most_rows=_FEW_ROWS if differing else None,
            reason="measured at load; a lone request is computed with an idle row" if pair_rows else "measured at load",
        )

    def _prompt(self, sizes: Sequence[int]) -> list[TracedRow] | None:
        """The rows of a prompt that is computed in chunks of these sizes."""
        self._context.trim(0, 0)
        rows: list[TracedRow] = []
        for size in sizes:
            at = len(rows)
            self._batch.fill_chunk(self._tokens[at : at + size], at, 0, last=True)
            found = self._trace.record(self._decode, size, at, one_stream=True)
            if found is None:
                return None
            rows += found
        return rows

    def _rows(self, count: int) -> list[TracedRow] | None:
        """The last token of the prompt, computed as the row of an answer in so many streams."""
        at = _PROMPT - 1
        self._batch.fill_rows([(self._tokens[at], at, stream) for stream in range(count)])
        found = self._trace.record(self._decode, count, at, one_stream=False)
        for stream in range(count):
            self._context.trim(stream, at)
        return found

    def _decode(self) -> int:
        return self._context.decode(self._batch)


def _same(left: Sequence[TracedRow] | None, right: Sequence[TracedRow]) -> bool:
    """Whether what both have computed is the same. A prompt computes less for tokens without logits."""
    if left is None or len(left) != len(right):
        return False
    return all(
        bool(common := mine.keys() & others.keys()) and all(mine[key] == others[key] for key in common)
        for mine, others in zip(left, right, strict=True)
    )
