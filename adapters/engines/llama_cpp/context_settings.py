"""What the contexts of one model are like, how much memory they take, and which sizes they may have."""

from __future__ import annotations

from collections.abc import Sequence

import llama_cpp as C

from corral.adapters.engines.llama_cpp.context_levels import FIRST_CELLS, cell_levels, stream_levels
from corral.adapters.engines.llama_cpp.memory_needs import (
    KV_BYTES_PER_VALUE,
    LARGEST_BATCH,
    OUTPUTS_PER_STREAM,
    SMALLEST_BATCH,
    batch_tokens,
    compute_bytes,
)
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.spec import DEFAULT_NUM_CTX, LlamaCppOptions
from corral.adapters.system.memory import free_memory
from corral.core.errors import OutOfMemory

__all__ = ("MAX_STREAMS", "ContextSettings")

MAX_STREAMS = 256  # LLAMA_MAX_SEQ
_FLASH_OFF, _FLASH_ON, _FLASH_AUTO = 0, 1, -1
_TILED = ("f16", "f32")
"""If keys and values both have one of these types, flash attention computes long chunks, and one row of many cells,
with kernels of their own (ggml-cpu/ops.cpp, `ggml_compute_forward_flash_attn_ext_f16`). Otherwise rows are computed one
by one.
"""
_CHEAP_BYTES = 32 * 2**20
"""The first streams may take this much, so that short chats do not have to grow."""
_LEFT_FREE_BYTES = 64 * 2**20
_SHARE_OF_FREE = 4


class ContextSettings:
    """What follows from a model and its options, which do not contradict each other.

    `generates`: whether it answers requests. `most_streams`: how many may run at once. `num_ctx`: how many tokens one
    may have. `chunk`: how many tokens of a prompt are computed together. `one_rope`: the numbers do not depend on how
    many cells there are.
    """

    def __init__(self, model: LlamaModel, options: LlamaCppOptions, *, gpu: bool) -> None:
        self._model = model
        self._options = options
        self._gpu = gpu
        trained = model.trained_context or DEFAULT_NUM_CTX
        self.num_ctx = max(4, min(options.num_ctx or DEFAULT_NUM_CTX, trained))
        self.chunk = max(SMALLEST_BATCH, min(options.num_batch, LARGEST_BATCH))
        unpooled = model.pooling in (None, C.LLAMA_POOLING_TYPE_NONE)
        self.generates = model.has_decoder and model.is_causal and unpooled
        self.one_rope = not model.scales_positions(self.num_ctx)
        self._flash_attention = self._chosen_flash_attention()
        self.most_streams = self._most_streams()
        self._batch = batch_tokens(options.num_batch, self.most_streams)

    @property
    def flash_attention(self) -> bool:
        return self._flash_attention != _FLASH_OFF

    def _chosen_flash_attention(self) -> int:
        options = self._options
        if options.flash_attention is not None:
            return _FLASH_ON if options.flash_attention else _FLASH_OFF
        if self._gpu:
            return _FLASH_AUTO
        return _FLASH_ON if options.quantized_cache or options.row_attention else _FLASH_OFF

    @property
    def attends_by_row(self) -> bool:
        """Whether each token's attention is computed alone, whatever else is computed: see `row_attention`."""
        keys, values = self._kv_types
        return not self._gpu and self.flash_attention and not (keys == values and keys in _TILED)

    @property
    def _kv_types(self) -> tuple[str, str]:
        """Of keys and values."""
        given = self._options.kv_cache_type
        rows = self._options.row_attention and not self._gpu
        return self._row_types if rows and given == "f16" else (given, given)

    @property
    def _row_types(self) -> tuple[str, str]:
        return ("bf16" if self._model.needs_one_kv_type else "f16"), "bf16"

    # ── Completions ───────────────────────────────────────────────────────────────────────────────────────────────

    def params(self) -> ContextParams:
        """Of contexts for completions."""
        return ContextParams(
            batch=self._batch,
            outputs_per_stream=OUTPUTS_PER_STREAM,
            flash_attention=self._flash_attention,
            kv_cache_type=self._kv_types[0],
            value_type=self._kv_types[1],
            gpu=self._gpu,
        )

    def _most_streams(self) -> int:
        if self._options.num_parallel and self._options.num_parallel > 0:
            return min(self._options.num_parallel, MAX_STREAMS)
        available = min(free_memory().values(), default=0) // _SHARE_OF_FREE
        sizes = (ContextSize(count, self.num_ctx) for count in (8, 4, 2))
        return next((size.streams for size in sizes if self._size_kv_bytes(size) <= available), 1)

    def stream_levels(self, *, movable: bool, pair_rows: bool) -> Sequence[int]:
        """The numbers of streams there may be, the smallest first. `movable`: states fit contexts of other sizes.
        With `pair_rows`, one alone is not enough.
        """
        most = self.most_streams
        if not movable or self._options.num_parallel:
            return [most]
        return stream_levels(min(most, 2 if pair_rows else 1), most)

    def cell_levels(self, *, movable: bool) -> Sequence[int]:
        """The numbers of cells a stream may have, the smallest first."""
        if not movable:
            return [self.num_ctx]
        return cell_levels(FIRST_CELLS, self.num_ctx)

    def first_cells(self, *, movable: bool, streams: int) -> int:
        """How many cells each of the first streams has."""
        levels = self.cell_levels(movable=movable)
        cheap = [cells for cells in levels if self._size_kv_bytes(ContextSize(streams, cells)) <= _CHEAP_BYTES]
        return max(cheap, default=levels[0])

    def allowed(self, size: ContextSize, now: ContextSize, fewest_streams: int) -> bool:
        """Whether there is memory for a context of this size besides the one of now. Others must find some, too."""
        free = free_memory().get("cpu")
        if free is None or self._gpu:
            return True
        if self.context_bytes(size) + _LEFT_FREE_BYTES > free:
            return False
        if size.streams <= fewest_streams:
            return True
        return self._size_kv_bytes(size) <= (free + self._size_kv_bytes(now)) // _SHARE_OF_FREE

    def context_bytes(self, size: ContextSize) -> int:
        """The KV cache and the compute buffers."""
        outputs = min(self._batch, size.streams * OUTPUTS_PER_STREAM)
        return self._size_kv_bytes(size) + self._compute_bytes(
            size.cells, self._batch, outputs=outputs, flash_attention=self.flash_attention
        )

    def _size_kv_bytes(self, size: ContextSize) -> int:
        return self._kv_bytes(size.cells * size.streams, self._options.kv_cache_type)

    def _kv_bytes(self, tokens: int, kv_cache_type: str) -> int:
        return int(tokens * self._model.kv_values_per_token * KV_BYTES_PER_VALUE[kv_cache_type])

    def _compute_bytes(self, cells: int, batch: int, *, outputs: int, flash_attention: bool) -> int:
        return compute_bytes(
            num_ctx=cells,
            batch=batch,
            outputs=outputs,
            heads=self._model.heads,
            vocabulary=self._model.vocabulary_size,
            width=self._model.embedding_size,
            windows=False,
            flash_attention=flash_attention,
        )

    # ── Embeddings ────────────────────────────────────────────────────────────────────────────────────────────────

    def embedding_cells(self) -> Sequence[int]:
        """The numbers of cells that a context for vectors may have, the smallest first."""
        return cell_levels(FIRST_CELLS, self.num_ctx) if self.one_rope else [self.num_ctx]

    def embedding_params(self, cells: int) -> ContextParams:
        """Of a context for inputs of up to so many tokens. Raises `OutOfMemory` if there is not enough memory.

        Exact ones are without flash attention, which rounds keys and values to half floats. Without it, long inputs
        take much memory: if that is scarce, scores are rounded.
        """
        kind = self._model.pooling or C.LLAMA_POOLING_TYPE_LAST
        # Pooling over all tokens needs them in one batch; the last token alone does not.
        whole = kind != C.LLAMA_POOLING_TYPE_LAST
        batch = max(LARGEST_BATCH, cells if whole else 0)
        exactly = self._options.exact and (self.generates or (self._model.ranks and not self._gpu))
        by_row = exactly and self.generates and self.attends_by_row  # what was measured at load holds here as well
        free = free_memory().get("cpu")
        needed = self._pooled_bytes(cells, batch, exactly=exactly)
        if exactly and self._model.ranks and free is not None and needed > free // _SHARE_OF_FREE:
            exactly = False
            needed = self._pooled_bytes(cells, batch, exactly=False)
        if not self._gpu and free is not None and needed > free:
            raise OutOfMemory(
                f"embeddings of up to {cells} tokens need about {needed >> 20} MiB more memory, but only "
                f"{free >> 20} MiB is free",
                "lower num_ctx, or free memory",
            )
        return ContextParams(
            batch=batch,
            flash_attention=_FLASH_ON if by_row else _FLASH_OFF if exactly else _FLASH_AUTO,
            kv_cache_type=self._row_types[0] if by_row else self._pooled_kv_type(exactly=exactly),
            value_type=self._row_types[1] if by_row else None,
            gpu=self._gpu,
            pooling=kind,
            unified=True,
        )

    def _pooled_kv_type(self, *, exactly: bool) -> str:
        return "f32" if exactly and self._model.ranks else "f16"

    def _pooled_bytes(self, cells: int, batch: int, *, exactly: bool) -> int:
        kv_bytes = self._kv_bytes(cells, self._pooled_kv_type(exactly=exactly))
        return kv_bytes + self._compute_bytes(cells, batch, outputs=0, flash_attention=not exactly)
