"""One context of llama.cpp: a KV cache of a fixed size, and its compute graph."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp as C
import numpy as np
import numpy.typing as npt

from corral.adapters.engines.llama_cpp.native_adapters import LoadedAdapter, apply_adapters
from corral.adapters.engines.llama_cpp.native_log import failure_reason, forget_log
from corral.core.errors import EngineError, OutOfMemory
from corral.core.values import Value

__all__ = ("ContextParams", "ContextSize", "NativeContext")

# Numbers of llama.cpp's enums (llama.h) that the Python module does not export.
_KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q5_1": 7, "q8_0": 8, "bf16": 30}

_MOST_VIEWS = 1024

# The module's own prototype creates a pointer object per call; an address is enough.
_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ("llama_get_logits_ith", C.llama_cpp._lib)
)


class ContextSize(Value, frozen=True):
    """`streams` that each have room for `cells` tokens."""

    streams: int
    cells: int


class ContextParams(Value, frozen=True, kw_only=True):
    """What contexts of different sizes have in common. `batch` is the largest number of tokens in one decode, of which
    `outputs_per_stream` have logits; None: all may have some, for which there is room then.

    With `pooling`, it computes vectors. If it is `unified`, all streams share the cells of one. `observer` is
    `cb_eval` of llama.cpp. `value_type`: of the values in the KV cache; None: that of the keys. `gpu`: it may
    compute on one, if there is any.
    """

    batch: int
    outputs_per_stream: int | None = None
    flash_attention: int
    kv_cache_type: str
    value_type: str | None = None
    pooling: int | None = None
    unified: bool = False
    gpu: bool = False
    observer: Any = None


class NativeContext:
    """`size` as it is in memory: there may be more cells than were asked for. Must be closed before the model.

    `adapters` are applied in everything that it computes. Raises `OutOfMemory`.
    """

    def __init__(
        self,
        model: Any,
        params: ContextParams,
        size: ContextSize,
        *,
        vocabulary_size: int,
        threads: int,
        adapters: Sequence[LoadedAdapter] = (),
    ) -> None:
        native = C.llama_context_default_params()
        native.n_ctx = size.cells if params.unified else size.cells * size.streams
        native.n_batch = params.batch
        native.n_ubatch = params.batch
        native.n_seq_max = size.streams
        native.n_threads = threads
        native.n_threads_batch = threads
        native.flash_attn_type = params.flash_attention
        native.type_k = _KV_TYPES[params.kv_cache_type]
        native.type_v = _KV_TYPES[params.value_type or params.kv_cache_type]
        native.swa_full = True  # sliding windows keep everything, so that prefixes can be truncated anywhere
        native.kv_unified = params.unified
        native.no_perf = True
        native.op_offload = params.gpu  # otherwise llama.cpp computes large batches there, with other kernels
        if params.observer is not None:
            native.cb_eval = params.observer
        if params.outputs_per_stream is not None:
            native.n_outputs_max = min(params.batch, size.streams * params.outputs_per_stream)
        if params.pooling is not None:
            native.embeddings = True
            native.pooling_type = params.pooling
        forget_log()
        self.handle = C.llama_init_from_model(model, native)
        if not self.handle:
            raise OutOfMemory(
                f"llama.cpp could not create a context of {size.streams} x {size.cells} tokens: {failure_reason()}",
                "lower num_ctx or num_parallel",
            )
        apply_adapters(self.handle, adapters)
        self.memory = C.llama_get_memory(self.handle)
        self.size = ContextSize(size.streams, int(C.llama_n_ctx_seq(self.handle)))
        self.can_shift = bool(self.memory and C.llama_memory_can_shift(self.memory))
        self.shifting = False
        """Whether the next decode moves keys to other positions: it must not be interrupted."""
        self._vocabulary_size = vocabulary_size
        self._views: dict[int, npt.NDArray[np.float32]] = {}

    def decode(self, batch: Any) -> int:
        """Compute a `llama_batch`. Return llama.cpp's code: 0 done, 1 no room, 2 aborted, negative failed."""
        code = int(C.llama_decode(self.handle, batch))
        self.shifting = self.shifting and code != 0
        return code

    def decode_all_seeing(self, batch: Any) -> int:
        """As `decode`, but all cells of the batch see each other."""
        C.llama_set_causal_attn(self.handle, False)
        try:
            return self.decode(batch)
        finally:
            C.llama_set_causal_attn(self.handle, True)

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits of a row of the last batch: a view that the next decode overwrites."""
        address = _logits_address(self.handle, row)
        if not address:
            raise EngineError(f"llama.cpp has no logits for row {row}")
        view = self._views.get(address)
        if view is None:  # llama.cpp keeps its output buffer, so there are few addresses
            if len(self._views) > _MOST_VIEWS:
                self._views.clear()
            values = (ctypes.c_float * self._vocabulary_size).from_address(address)
            view = self._views[address] = np.ctypeslib.as_array(values)
        return view

    def set_threads(self, threads: int) -> None:
        C.llama_set_n_threads(self.handle, threads, threads)

    def trim(self, stream: int, length: int) -> bool:
        """Drop all but the first `length` positions; return False if this kind of memory cannot do that."""
        return bool(C.llama_memory_seq_rm(self.memory, stream, length, -1))

    def clear(self) -> None:
        """Drop the tokens of every stream. What they left in the cells is overwritten before it is read."""
        C.llama_memory_clear(self.memory, False)

    def discard(self, stream: int, start: int, end: int) -> None:
        """Drop positions `start` to `end` and move what follows down."""
        C.llama_memory_seq_rm(self.memory, stream, start, end)
        C.llama_memory_seq_add(self.memory, stream, end, -1, start - end)
        self.shifting = True

    def span(self, stream: int) -> tuple[int, int]:
        """The first and last position in memory, (-1, -1) when empty."""
        return (
            int(C.llama_memory_seq_pos_min(self.memory, stream)),
            int(C.llama_memory_seq_pos_max(self.memory, stream)),
        )

    def state_bytes(self, stream: int) -> int:
        """The size of what `save` returns without `spare`."""
        return int(C.llama_state_seq_get_size(self.handle, stream))

    def save(self, stream: int, *, spare: int = 0) -> npt.NDArray[np.uint8]:
        """A copy of the stream's state, with `spare` zeros behind it."""
        size = self.state_bytes(stream)
        data = np.empty(size + spare, np.uint8)
        data[size:] = 0
        if C.llama_state_seq_get_data(self.handle, _address(data), size, stream) != size:
            raise EngineError(f"llama.cpp could not save the state of stream {stream}")
        return data

    def restore(self, stream: int, state: npt.NDArray[np.uint8]) -> bool:
        """Return False if it does not fit; then the stream is empty."""
        return bool(C.llama_state_seq_set_data(self.handle, _address(state), len(state), stream))

    def close(self) -> None:
        if self.handle:
            C.llama_free(self.handle)
            self.handle = None


def _address(data: npt.NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
