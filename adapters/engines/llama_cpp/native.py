"""A model's KV cache of streams, and what is computed in it, whatever its size is at the moment."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import llama_cpp as C
import numpy as np
import numpy.typing as npt

from corral.adapters.engines.llama_cpp.filler_rows import filler_rows, lone_rows
from corral.adapters.engines.llama_cpp.interrupting import Interrupter
from corral.adapters.engines.llama_cpp.native_batch import Batch, VectorBatch
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize, NativeContext
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.stream_states import SPARE_BYTES, fit_state, portable_state
from corral.core.errors import EngineError

__all__ = ("Company", "LlamaContext")


class Company(NamedTuple):
    """With which rows those of some streams are computed. `fillers`: streams of which the batch must have a row too;
    `rows`: how many there are together, at most. Streams of `alone` must not be computed now: a row would be alone.
    """

    fillers: list[int]
    rows: int
    alone: set[int]


class _Part(NamedTuple):
    """The streams that one of the contexts has, and those that it computes as well."""

    native: NativeContext
    streams: list[int]
    fillers: list[int]


class LlamaContext:
    """A KV cache of separate streams, and its compute graph, which can be replaced by one of another size.

    `num_ctx` is the most tokens that one of its streams may ever have, by default those of the first `size`; now there
    is room for `cells`. `portable`: states are saved in a form that contexts of all sizes load (see `stream_states`).
    `pair_rows`: no row of a decode may be computed alone.
    """

    def __init__(
        self, model: LlamaModel, params: ContextParams, size: ContextSize, *, threads: int, num_ctx: int | None = None
    ) -> None:
        self.model = model
        self.num_ctx = size.cells if num_ctx is None else num_ctx
        self.batch = params.batch
        self.threads = threads
        self.portable = False
        self.pair_rows = False
        self.params = params
        self._interrupter = Interrupter()
        self._native = self.another(size)
        self._next: NativeContext | None = None
        self._moved: set[int] = set()
        self._last = self._native
        self._rows: dict[int, tuple[NativeContext, int]] = {}

    @property
    def memory(self) -> Any:
        """None if it has no KV cache."""
        return self._native.memory

    @property
    def can_shift(self) -> bool:
        return self._native.can_shift

    @property
    def size(self) -> ContextSize:
        """Its size. While streams are moved, what both contexts have room for."""
        now, after = self._native.size, self._next
        return now if after is None else ContextSize(after.size.streams, min(now.cells, after.size.cells))

    @property
    def most_outputs(self) -> int:
        """How many rows of a decode may have logits. llama.cpp ends the process if there are more."""
        per_stream = self.params.outputs_per_stream
        streams = min(native.size.streams for native in filter(None, (self._native, self._next)))
        return self.batch if per_stream is None else min(self.batch, per_stream * streams)

    @property
    def cells(self) -> int:
        """How many tokens a stream has room for now."""
        return min(self.num_ctx, self.size.cells)

    def cells_of(self, stream: int) -> int:
        """How many tokens this stream has room for now: others may have another size while streams are moved."""
        return min(self.num_ctx, self._place(stream).size.cells)

    # ── Decode ────────────────────────────────────────────────────────────────────────────────────────────────────

    def company(self, streams: Collection[int], full: Collection[int]) -> Company:
        """For rows of answers in these streams; those that are `full` have no room for another row."""
        parts = self._parts(streams, full)
        fillers = parts[0].fillers if self._next is None else []  # while streams are moved, `decode` adds them
        alone = {one for part in parts if self.pair_rows for one in lone_rows(part.streams, part.fillers)}
        return Company(fillers, max(len(part.streams) + len(part.fillers) for part in parts), alone)

    def _parts(self, streams: Collection[int], full: Collection[int]) -> list[_Part]:
        parts = []
        for native in filter(None, (self._native, self._next)):
            mine = [stream for stream in streams if self._place(stream) is native]
            if mine:
                here = [stream for stream in full if self._place(stream) is native]
                fillers = filler_rows(mine, native.size.streams, pair_rows=self.pair_rows, full=here)
                parts.append(_Part(native, mine, fillers))
        return parts

    def decode(self, batch: Batch) -> int:
        """Return llama.cpp's code: 0 done, 1 no room, 2 aborted, negative failed."""
        if self._next is None:
            return self._native.decode(batch.native)
        if batch.full is None:
            self._last, self._rows = self._place(int(batch.sequences[0])), {}
            return self._last.decode(batch.native)
        return self._decode_parts(batch, batch.full)

    def decode_interruptibly(self, batch: Batch, tolerated: float | None) -> int:
        """As `decode`, but `INTERRUPTED` if more than `tolerated` processors are missing; None: any number may be. Of
        some streams, tokens may be in memory then: they must be trimmed.
        """
        if tolerated is None or any(native.shifting for native in filter(None, (self._native, self._next))):
            return self.decode(batch)
        with self._interrupter.watch(self.threads, tolerated):
            return self.decode(batch)

    def _decode_parts(self, batch: Batch, full: Collection[int]) -> int:
        self._rows = {}
        streams = batch.sequences[: batch.native.n_tokens].tolist()
        for native, mine, fillers in self._parts(dict.fromkeys(streams), full):
            added = [(stream, native.span(stream)[1] + 1, 0, -1) for stream in fillers]
            rows = added + [
                (stream, int(batch.positions[row]), int(batch.tokens[row]), row)
                for row, stream in enumerate(streams)
                if stream in mine
            ]
            rows.sort()  # llama.cpp computes together what comes in the order of streams
            self._rows |= {row: (native, at) for at, (*_, row) in enumerate(rows) if row >= 0}
            part = Batch(len(rows))
            part.fill_rows([(token, position, stream) for stream, position, token, _ in rows])
            code = native.decode(part.native)
            for stream, position, *_ in added:
                native.trim(stream, position)
            if code != 0:
                return code
        return 0

    def decode_vectors(self, batch: VectorBatch, *, causal: bool) -> int:
        """As `decode`, for an image. If not `causal`, all of its cells see each other."""
        self._last, self._rows = self._place(batch.stream), {}
        return self._last.decode(batch.native) if causal else self._last.decode_all_seeing(batch.native)

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits of a row of the last batch: a view that the next decode overwrites."""
        native, at = self._rows[row] if self._rows else (self._last, row)
        return native.logits(at)

    def pooled(self, sequence: int, width: int | None = None) -> npt.NDArray[np.float32]:
        """A copy of the pooled vector of a sequence of the last batch. A classifier's output has another `width`."""
        pointer = C.llama_get_embeddings_seq(self._native.handle, sequence)
        if not pointer:
            raise EngineError(f"llama.cpp has no embedding for sequence {sequence}")
        return np.ctypeslib.as_array(pointer, (width or self.model.embedding_size,)).copy()

    def set_threads(self, threads: int) -> None:
        """Set the number of threads for all decodes from now on."""
        if threads != self.threads:
            self.threads = threads
            for native in filter(None, (self._native, self._next)):
                native.set_threads(threads)

    # ── Streams ───────────────────────────────────────────────────────────────────────────────────────────────────

    def trim(self, stream: int, length: int) -> bool:
        """Drop all but the first `length` positions; return False if this kind of memory cannot do that."""
        return self._place(stream).trim(stream, length)

    def clear(self) -> None:
        """Drop the tokens of every stream. What they left in the cells is overwritten before it is read."""
        for native in filter(None, (self._native, self._next)):
            native.clear()

    def discard(self, stream: int, start: int, end: int) -> None:
        """Drop positions `start` to `end` and move what follows down."""
        self._place(stream).discard(stream, start, end)

    def span(self, stream: int) -> tuple[int, int]:
        """The first and last position in memory, (-1, -1) when empty."""
        return self._place(stream).span(stream)

    def state_bytes(self, stream: int) -> int:
        """About the size of what `save` returns."""
        return self._place(stream).state_bytes(stream)

    def save(self, stream: int) -> npt.NDArray[np.uint8]:
        """A copy of the stream's state, which `restore` can load into another one, also after a change of size if it is
        `portable`.
        """
        if not self.portable:
            return self._place(stream).save(stream)
        return portable_state(self._place(stream).save(stream, spare=SPARE_BYTES), stream)

    def restore(self, stream: int, state: Any) -> bool:
        """Load what `save` returned, or the same bytes in any buffer. False if it does not fit: the stream is empty."""
        data = np.frombuffer(state, np.uint8)
        native = self._place(stream)
        return native.restore(stream, fit_state(data, native.size.streams) if self.portable else data)

    def _place(self, stream: int) -> NativeContext:
        return self._next if self._next is not None and stream in self._moved else self._native

    # ── Size ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def another(self, size: ContextSize) -> NativeContext:
        """A context of another size, for `begin_moving`. In any thread. Raises `OutOfMemory`."""
        model = self.model
        native = NativeContext(
            model.handle,
            self.params,
            size,
            vocabulary_size=model.vocabulary_size,
            threads=self.threads,
            adapters=model.adapters,
        )
        self._interrupter.install(native.handle)
        return native

    def begin_moving(self, native: NativeContext) -> None:
        """From now on, streams that it alone has are there, and others once they are moved. Must be `portable`."""
        assert self.portable
        assert self._next is None
        native.set_threads(self.threads)
        self._next = native
        self._moved = set(range(self._native.size.streams, native.size.streams))

    def move(self, stream: int, *, content: bool) -> bool:
        """Move a stream, with its `content` or empty; return False if it had to be dropped."""
        assert self._next is not None
        kept = False
        if content:
            state = portable_state(self._native.save(stream, spare=SPARE_BYTES), stream)
            kept = self._next.restore(stream, fit_state(state, self._next.size.streams))
        self._native.trim(stream, 0)
        self._moved.add(stream)
        return kept or not content

    def end_moving(self) -> NativeContext:
        """Call when all streams are moved; return the old context, which must be closed."""
        assert self._next is not None
        old, self._native, self._next = self._native, self._next, None
        self._moved = set()
        self._last, self._rows = self._native, {}
        return old

    def close(self) -> None:
        for native in filter(None, (self._native, self._next)):
            native.close()
        self._interrupter.close()
