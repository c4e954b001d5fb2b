"""What llama.cpp computes in a step: one row per answer, and pieces of prompts within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from corral.adapters.engine_kit.step_timing import StepTime, Stopwatch
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.exactness import Exactness
from corral.adapters.engines.llama_cpp.guessing import Guessing
from corral.adapters.engines.llama_cpp.interrupting import INTERRUPTED
from corral.adapters.engines.llama_cpp.native import Company, LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch, VectorBatch
from corral.adapters.engines.llama_cpp.prefill_pace import PrefillPace
from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.adapters.engines.llama_cpp.streams import CacheStream, Jump, Streams
from corral.core.errors import EngineError

__all__ = ("Computation",)

_Computed = tuple[LlamaSequence, Sequence[int] | EngineError]


class Computation:
    """Measures its own speed and sets the number of threads to what is currently fastest. One thread owns it. With a
    budget of `fewest` tokens, every rest of a prompt can be computed.
    """

    def __init__(
        self,
        *,
        context: LlamaContext,
        streams: Streams,
        batch: Batch,
        tuner: ThreadTuner,
        max_prefill_tokens: int,
        largest_chunk: int,
        exactness: Exactness,
        guessing: Guessing | None = None,
    ) -> None:
        self._context = context
        self._streams = streams
        self._batch = batch
        self._vectors = VectorBatch(context.batch)
        self._tuner = tuner
        # With a smaller budget, not every rest could be cut into chunks.
        self.fewest = max(2, 2 * exactness.smallest_chunk - 1)
        self._max_prefill_tokens = max(self.fewest, max_prefill_tokens)
        self._exactness = exactness
        self._guessing = guessing
        self._pace = PrefillPace(
            tuner, fewest=self.fewest, beside_answers=self._max_prefill_tokens, largest=largest_chunk
        )
        self._debt_s = 0.0

    # ── Answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def tokens(self, sequences: list[LlamaSequence]) -> Iterator[_Computed]:
        """Compute the pending token of each sequence, and guesses. Yield each with the rows of their logits, or with
        its error.

        Logits must be read, and `keep_chosen` called, before the next is requested. If a batch fails, each sequence is
        computed alone, so that only the cause of the failure fails. Those that would be computed alone although none
        may be are left out: they must wait until a stream beside theirs has room.
        """
        ready = sorted(sequences, key=_stream_index)
        if self._guessing is not None:
            idle_rows = len(self._streams) - len(ready)
            self._guessing.plan(ready, self._context.cells_of, self._context.most_outputs - idle_rows)
        most = self._exactness.most_rows
        if most is None or self._company(ready).rows <= most:
            yield from self._together(ready)
            return
        count = most // 2 if self._exactness.pair_rows else (most + 1) // 2  # so that there is room for idle rows
        for start in range(0, len(ready), count):
            yield from self._together(ready[start : start + count])

    def _together(self, ready: list[LlamaSequence]) -> Iterator[_Computed]:
        company = self._company(ready)
        ready = [sequence for sequence in ready if sequence.owned.index not in company.alone]
        if not ready:
            return
        fillers = [self._streams[index] for index in company.fillers]
        rows = [(0, filler.next_position, filler.index) for filler in fillers]
        for sequence in ready:
            first, index = sequence.owned.next_position, sequence.owned.index
            rows += [(token, first + at, index) for at, token in enumerate((sequence.pending, *sequence.guess))]
        rows.sort(key=_row_order)
        self._batch.fill_rows(rows, self._streams.full)
        code, took = self._decode_rows([*fillers, *(one.owned for one in ready)])
        for filler in fillers:
            self._context.trim(filler.index, filler.next_position)
        if code != 0:
            yield from self._one_by_one(ready, code)
            return
        places: dict[int, list[int]] = {}
        for at, (_, _, index) in enumerate(rows):
            places.setdefault(index, []).append(at)
        for sequence in ready:
            self._computed(sequence)
            yield sequence, places[sequence.owned.index]
        self._tuner.record(len(rows), took)
        if self._guessing is not None:
            self._guessing.learn(ready, took.wall_s)

    def _decode_rows(self, streams: Sequence[CacheStream]) -> tuple[int, StepTime]:
        """Decode the batch, which has rows of these streams; again with fewer threads if it is interrupted."""
        code, took = self._decode()
        while code == INTERRUPTED:
            for stream in streams:
                self._context.trim(stream.index, stream.next_position)
            code, took = self._decode()
        return code, took

    def _decode(self) -> tuple[int, StepTime]:
        """Decode the batch. If it is interrupted, there are fewer threads the next time."""
        self._context.set_threads(self._tuner.next_threads())
        # If what is in memory cannot be trimmed, an interruption would lose all of it.
        tolerated = self._tuner.tolerated if self._streams.trimmable else None
        watch = Stopwatch()
        code = self._context.decode_interruptibly(self._batch, tolerated)
        took = watch.read()
        if code == INTERRUPTED:
            self._tuner.interrupted(took)
        return code, took

    def keep_chosen(self, sequence: LlamaSequence, rows: Sequence[int]) -> None:
        """Call when tokens have been chosen from the logits of these rows: what was computed for other guesses is
        forgotten.
        """
        if len(rows) > 1:
            stream = sequence.owned
            self._context.trim(stream.index, stream.next_position)
            self._note_reusable(sequence)

    def _company(self, ready: list[LlamaSequence]) -> Company:
        busy = [sequence.owned.index for sequence in ready]
        if not self._streams.trimmable:
            return Company([], len(busy), set())
        return self._context.company(busy, self._streams.full)

    def _one_by_one(self, ready: list[LlamaSequence], code: int) -> Iterator[_Computed]:
        self._streams.resync()
        for sequence in ready:
            sequence.guess = []
            if len(ready) > 1 or self._guessing is not None:
                stream = sequence.owned
                self._batch.fill_rows([(sequence.pending, stream.next_position, stream.index)], self._streams.full)
                code = self._context.decode(self._batch)
            if code == 0:
                self._computed(sequence)
                yield sequence, (0,)
            else:
                yield sequence, _undecodable(code)

    def _computed(self, sequence: LlamaSequence) -> None:
        sequence.owned.tokens.append(sequence.pending)
        self._note_reusable(sequence)

    def _note_reusable(self, sequence: LlamaSequence) -> None:
        # Unless it has been measured, a single row comes out slightly different from the same token within a prompt.
        if not self._exactness.exact or (self._exactness.rows_are_prompt and not sequence.shifted):
            sequence.owned.reusable = len(sequence.owned.tokens)

    def close(self) -> None:
        """Free the context, and what guesses."""
        if self._guessing is not None:
            self._guessing.close()
        self._context.close()

    # ── Prompts ───────────────────────────────────────────────────────────────────────────────────────────────────

    def budget(self, *, answering: bool) -> int:
        """The largest number of prompt tokens in this step: few while an answer is being generated."""
        budget = self._pace.budget(answering=answering)
        return max(0, int(budget - self._debt_s * self._pace.rate)) if answering else budget

    @property
    def fixed_budget(self) -> int:
        """A number of tokens that never changes."""
        return self._max_prefill_tokens

    @property
    def in_debt(self) -> bool:
        """Whether answers have waited for other work for as long as a step's budget takes."""
        return self._debt_s >= self._pace.gap_s

    def charge(self, took_s: float) -> None:
        """Count time that states were copied for as time for prompts of this step and, if it has too little, of the
        next.
        """
        self._debt_s += took_s

    def begin_step(self) -> None:
        """Call at the beginning of a step."""
        self._debt_s = max(0.0, self._debt_s - self._pace.gap_s)

    @property
    def smallest_chunk(self) -> int:
        return self._exactness.smallest_chunk

    @property
    def prefill_rate(self) -> float:
        """How many tokens of a prompt are computed in a second; a guess until one has been."""
        return self._pace.rate

    def chunk(self, remaining: int, budget: int) -> int:
        """How many tokens of a prompt to compute now: never fewer than the smallest chunk, unless there are no more,
        and never so many that fewer remain, since few rows use another kernel.
        """
        smallest = self._exactness.smallest_chunk
        count = min(remaining, budget)
        if 0 < remaining - count < smallest:
            count = remaining - smallest
        return count if count >= min(smallest, remaining) else 0

    def next_chunk(self, sequence: LlamaSequence, budget: int) -> int:
        """How many cells of the prompt to compute now, in one call. An image whose cells all see each other is computed
        as a whole, even if it exceeds the budget.
        """
        if budget <= 0:
            return 0
        segment = sequence.cells.segment(sequence.computed)
        remaining = segment.end - sequence.computed
        if segment.image is not None and not segment.image.causal:
            return remaining
        return self.chunk(remaining, budget)

    def prompt(self, sequence: LlamaSequence, count: int) -> bool:
        """Compute the next `count` cells, as `next_chunk` says; the last row has the logits. False if it was
        interrupted, and must be done again, with fewer threads. Raises `EngineError`.
        """
        stream = sequence.owned
        start = len(stream.tokens)
        segment = sequence.cells.segment(start)
        last = start + count == len(sequence.prompt)
        keys = sequence.prompt[start : start + count]
        image = segment.image
        if image is None:
            return self._text(stream, sequence.cells.ids(start, start + count), keys, last=last)
        self._vectors.fill(image, start - segment.start, count, stream.position(segment.start), stream.index, last=last)
        self._context.set_threads(self._tuner.next_threads())
        watch = Stopwatch()
        code = self._context.decode_vectors(self._vectors, causal=image.causal)
        try:
            self._prefilled(stream, keys, code, watch.read())
        except EngineError:
            self._streams.cut(stream, segment.start)
            raise
        if image.span != image.count and start == segment.start:
            stream.jumps.append(Jump(segment.start, image.count, image.span))
        return True

    def known(self, stream: CacheStream, tokens: list[int]) -> bool:
        """Compute tokens that follow in an idle stream, as part of a prompt. False if it was interrupted. Raises
        `EngineError`.
        """
        return self._text(stream, tokens, tokens, last=False)

    def _text(self, stream: CacheStream, tokens: list[int], keys: list[int], *, last: bool) -> bool:
        self._batch.fill_chunk(tokens, stream.next_position, stream.index, last=last)
        code, took = self._decode()
        if code == INTERRUPTED:
            return False
        self._prefilled(stream, keys, code, took)
        return True

    def _prefilled(self, stream: CacheStream, keys: list[int], code: int, took: StepTime) -> None:
        if code != 0:
            self._streams.resync()
            raise _undecodable(code)
        self._pace.record(len(keys), took)
        stream.tokens.extend(keys)
        stream.reusable = len(stream.tokens)


def _undecodable(code: int) -> EngineError:
    return EngineError(f"llama.cpp could not decode (code {code})", "see the log; a smaller num_ctx may help")


def _row_order(row: tuple[int, int, int]) -> tuple[int, int]:
    _, position, index = row
    return index, position


def _stream_index(sequence: LlamaSequence) -> int:
    return sequence.owned.index
