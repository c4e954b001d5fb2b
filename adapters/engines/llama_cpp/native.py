"""Handles over llama.cpp's C API: the model and its contexts. Errors come out as Corral's."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as C
import numpy as np
import numpy.typing as npt

from corral.adapters.engines.llama_cpp.native_batch import Batch, VectorBatch
from corral.adapters.engines.llama_cpp.native_log import failure_reason, forget_log
from corral.adapters.engines.llama_cpp.stream_states import fitted
from corral.core.errors import EngineError, InvalidModelFile, LoadFailed, OutOfMemory
from corral.core.ports.runners import OnLoadProgress

__all__ = ("LlamaContext", "LlamaModel", "supports_gpu")

# Numbers of llama.cpp's enums (llama.h) that the Python module does not export.
KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q5_1": 7, "q8_0": 8, "bf16": 30}

_MOST_VIEWS = 1024

# The module's own prototype creates a pointer object per call; an address is enough.
_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ("llama_get_logits_ith", C.llama_cpp._lib)
)


def supports_gpu() -> bool:
    return bool(C.llama_supports_gpu_offload())


class LlamaModel:
    """Weights and vocabulary. Must be closed after all of its contexts."""

    def __init__(
        self, path: str, *, gpu_layers: int, main_gpu: int | None, use_mmap: bool | None, on_progress: OnLoadProgress
    ) -> None:
        params = C.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if main_gpu is not None:
            params.main_gpu = main_gpu
            params.split_mode = C.LLAMA_SPLIT_MODE_NONE
        if use_mmap is not None:
            params.load_mode = C.LLAMA_LOAD_MODE_MMAP if use_mmap else C.LLAMA_LOAD_MODE_NONE

        stopped: list[BaseException] = []

        def progress(share: float, _: Any) -> bool:
            # An exception cannot pass through native code: ctypes would print it. Returning False ends the load.
            try:
                on_progress(share)
            except BaseException as reason:
                stopped.append(reason)
            return not stopped

        callback = C.llama_progress_callback(progress)
        params.progress_callback = callback
        forget_log()
        self.handle = C.llama_model_load_from_file(path.encode(), params)
        if stopped:
            self.close()
            raise stopped[0]
        if not self.handle:
            reason = failure_reason()
            if "unknown model architecture" in reason or "invalid" in reason or "corrupt" in reason:
                raise InvalidModelFile(
                    f"llama.cpp does not support this model: {reason}",
                    "another engine or a newer version of this one may support it",
                )
            if "alloc" in reason:
                raise OutOfMemory(f"llama.cpp could not load the model: {reason}", "free memory, or lower num_gpu")
            raise LoadFailed(f"llama.cpp could not load the model: {reason}")
        self.vocab = C.llama_model_get_vocab(self.handle)
        self.vocabulary_size = int(C.llama_vocab_n_tokens(self.vocab))
        self.trained_context = int(C.llama_model_n_ctx_train(self.handle))
        self.embedding_size = int(C.llama_model_n_embd_out(self.handle))
        self.has_decoder = bool(C.llama_model_has_decoder(self.handle))
        self.heads = max(1, int(C.llama_model_n_head(self.handle)))
        usual = int(C.llama_model_n_embd(self.handle)) // self.heads
        architecture = self.metadata("general.architecture") or ""
        keys, values = (
            int(self.metadata(f"{architecture}.attention.{kind}_length") or usual) for kind in ("key", "value")
        )
        layers = int(C.llama_model_n_layer(self.handle))
        self.kv_values_per_token = layers * int(C.llama_model_n_head_kv(self.handle)) * (keys + values)

    @property
    def size_bytes(self) -> int:
        return int(C.llama_model_size(self.handle))

    @property
    def description(self) -> str:
        text = ctypes.create_string_buffer(128)
        C.llama_model_desc(self.handle, text, len(text))
        return text.value.decode("utf-8", "replace")

    def metadata(self, key: str) -> str | None:
        text = ctypes.create_string_buffer(512)
        length = C.llama_model_meta_val_str(self.handle, key.encode(), text, len(text))
        return text.value.decode("utf-8", "replace") if length >= 0 else None

    def close(self) -> None:
        if self.handle:
            C.llama_model_free(self.handle)
            self.handle = None


class LlamaContext:
    """A KV cache of separate streams, and its compute graph."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        num_ctx: int,
        streams: int,
        batch: int,
        threads: int,
        flash_attention: int,
        kv_cache_type: str,
        pooling: int | None = None,
        unified: bool = False,
    ) -> None:
        params = C.llama_context_default_params()
        params.n_ctx = num_ctx if unified else num_ctx * streams
        params.n_batch = batch
        params.n_ubatch = batch
        params.n_seq_max = streams
        params.kv_unified = unified
        params.n_threads = threads
        params.n_threads_batch = threads
        params.flash_attn_type = flash_attention
        params.type_k = params.type_v = KV_TYPES[kv_cache_type]
        params.swa_full = True  # sliding windows keep everything, so that prefixes can be truncated anywhere
        params.no_perf = True
        if pooling is not None:
            params.embeddings = True
            params.pooling_type = pooling
        forget_log()
        self.model = model
        self.handle = C.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise OutOfMemory(
                f"llama.cpp could not create a context of {streams} x {num_ctx} tokens: {failure_reason()}",
                "lower num_ctx or num_parallel",
            )
        self.memory = C.llama_get_memory(self.handle)
        self.batch = batch
        self.num_ctx = min(num_ctx, int(C.llama_n_ctx_seq(self.handle)))
        self.can_shift = bool(self.memory and C.llama_memory_can_shift(self.memory))
        self.threads = threads
        self._model_is_recurrent = C.llama_model_is_recurrent(model.handle) or C.llama_model_is_hybrid(model.handle)
        self._views: dict[int, npt.NDArray[np.float32]] = {}

    def decode(self, batch: Batch) -> int:
        """Return llama.cpp's code: 0 done, 1 no room, 2 aborted, negative failed."""
        return int(C.llama_decode(self.handle, batch.native))

    def decode_vectors(self, batch: VectorBatch, *, causal: bool) -> int:
        """As `decode`, for an image. If not `causal`, all of its cells see each other."""
        if causal:
            return int(C.llama_decode(self.handle, batch.native))
        C.llama_set_causal_attn(self.handle, False)
        try:
            return int(C.llama_decode(self.handle, batch.native))
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
            values = (ctypes.c_float * self.model.vocabulary_size).from_address(address)
            view = self._views[address] = np.ctypeslib.as_array(values)
        return view

    def pooled(self, sequence: int) -> npt.NDArray[np.float32]:
        """A copy of the pooled vector of a sequence of the last batch."""
        pointer = C.llama_get_embeddings_seq(self.handle, sequence)
        if not pointer:
            raise EngineError(f"llama.cpp has no embedding for sequence {sequence}")
        return np.ctypeslib.as_array(pointer, (self.model.embedding_size,)).copy()

    def set_threads(self, threads: int) -> None:
        """Set the number of threads for all decodes from now on."""
        if threads != self.threads:
            C.llama_set_n_threads(self.handle, threads, threads)
            self.threads = threads

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

    def span(self, stream: int) -> tuple[int, int]:
        """The first and last position in memory, (-1, -1) when empty."""
        return (
            int(C.llama_memory_seq_pos_min(self.memory, stream)),
            int(C.llama_memory_seq_pos_max(self.memory, stream)),
        )

    def state_bytes(self, stream: int) -> int:
        """The size of what `save` returns."""
        return int(C.llama_state_seq_get_size(self.handle, stream))

    def save(self, stream: int) -> ctypes.Array[ctypes.c_uint8]:
        """A copy of the stream's state, which `restore` can load into another one."""
        size = self.state_bytes(stream)
        data: ctypes.Array[ctypes.c_uint8] = (ctypes.c_uint8 * size)()
        if C.llama_state_seq_get_data(self.handle, data, size, stream) != size:
            raise EngineError(f"llama.cpp could not save the state of stream {stream}")
        return data

    def restore(self, stream: int, state: Any) -> bool:
        """Load what `save` returned, or the same bytes in any writable buffer. For models whose memory is a KV cache
        alone, that of a context with another number of streams too.
        """
        if not self._model_is_recurrent:
            state = fitted(state, int(C.llama_n_seq_max(self.handle)))
        data = (ctypes.c_uint8 * memoryview(state).nbytes).from_buffer(state)
        return bool(C.llama_state_seq_set_data(self.handle, data, len(data), stream) == len(data))

    def close(self) -> None:
        if self.handle:
            C.llama_free(self.handle)
            self.handle = None
