"""Handles over llama.cpp's C API: model, context, batch, and its log; errors come out as Corral's."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import llama_cpp as C
import numpy as np
import numpy.typing as npt

from corral.core.errors import EngineError, InvalidModelFile, LoadFailed, OutOfMemory
from corral.core.ports.runners import OnLoadProgress

__all__ = ("Batch", "LlamaContext", "LlamaModel", "collect_log", "supports_gpu")

_log = logging.getLogger("corral.engines.llama_cpp")
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_recent: deque[str] = deque(maxlen=20)
_last_level = logging.DEBUG

# The number of llama.cpp's own enums (llama.h) that are not attributes of the Python module.
KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q5_1": 7, "q8_0": 8, "bf16": 30}

_MOST_VIEWS = 1024

# The module's own prototype makes a pointer object per call; an address is enough.
_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ("llama_get_logits_ith", C.llama_cpp._lib)
)


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: Any) -> None:
    global _last_level
    if level != 5:  # 5 continues the line before
        _last_level = _LEVELS.get(level, logging.DEBUG)
    line = text.decode("utf-8", "replace").rstrip()
    if line and line.strip("."):
        if _last_level >= logging.WARNING:
            _recent.append(line)
        # What llama.cpp calls information and warnings is of use to its developers; a failure is told by its error.
        _log.log(logging.DEBUG if _last_level <= logging.WARNING else _last_level, "%s", line)


def collect_log() -> None:
    """Send llama.cpp's log to `logging`, and keep its last warnings for error messages."""
    C.llama_log_set(_on_log, ctypes.c_void_p(0))


def _reason() -> str:
    """What llama.cpp said last that explains a failure."""
    telling = [
        line for line in _recent if "error" in line.lower() or "unknown" in line.lower() or "failed" in line.lower()
    ]
    lines = telling or list(_recent)
    return lines[0].split(": ", 1)[-1] if lines else "no reason given"


def supports_gpu() -> bool:
    return bool(C.llama_supports_gpu_offload())


class LlamaModel:
    """Weights and vocabulary. Closed after every context made from it."""

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
            # An exception cannot pass through native code: ctypes would print it. Answering False ends the load.
            try:
                on_progress(share)
            except BaseException as reason:
                stopped.append(reason)
            return not stopped

        callback = C.llama_progress_callback(progress)
        params.progress_callback = callback
        _recent.clear()
        self.handle = C.llama_model_load_from_file(path.encode(), params)
        if stopped:
            self.close()
            raise stopped[0]
        if not self.handle:
            reason = _reason()
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


class Batch:
    """One `llama_batch` over numpy arrays: tokens of several sequences for one call of decode."""

    def __init__(self, capacity: int) -> None:
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        self.sequences = np.zeros(capacity, np.int32)
        self.wanted = np.zeros(capacity, np.int8)
        self._counts = np.ones(capacity, np.int32)
        base = self.sequences.ctypes.data
        self._pointers = (ctypes.POINTER(C.llama_seq_id) * capacity)(
            *(ctypes.cast(base + 4 * i, ctypes.POINTER(C.llama_seq_id)) for i in range(capacity))
        )
        self.native = C.llama_batch(
            0,
            self.tokens.ctypes.data_as(ctypes.POINTER(C.llama_token)),
            None,
            self.positions.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
            self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            ctypes.cast(self._pointers, ctypes.POINTER(ctypes.POINTER(C.llama_seq_id))),
            self.wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill_chunk(self, tokens: Sequence[int], position: int, sequence: int, *, last: bool) -> None:
        """A run of one sequence's tokens; logits of the last one where `last` asks for them."""
        count = len(tokens)
        self.tokens[:count] = tokens
        self.positions[:count] = np.arange(position, position + count, dtype=np.int32)
        self.sequences[:count] = sequence
        self.wanted[:count] = 0
        self.wanted[count - 1] = 1 if last else 0
        self.native.n_tokens = count

    def fill_rows(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """One (token, position, sequence) each, logits of all of them."""
        for index, (token, position, sequence) in enumerate(rows):
            self.tokens[index] = token
            self.positions[index] = position
            self.sequences[index] = sequence
            self.wanted[index] = 1
        self.native.n_tokens = len(rows)

    def fill_inputs(self, inputs: Sequence[Sequence[int]], position: int = 0) -> None:
        """Inputs, one sequence each from `position` on, every token an output for pooling."""
        at = 0
        for sequence, tokens in enumerate(inputs):
            end = at + len(tokens)
            self.tokens[at:end] = tokens
            self.positions[at:end] = np.arange(position, position + len(tokens), dtype=np.int32)
            self.sequences[at:end] = sequence
            at = end
        self.wanted[:at] = 1
        self.native.n_tokens = at


class LlamaContext:
    """A KV cache of separate streams, and the compute graph over it."""

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
        params.swa_full = True  # sliding windows keep everything, so that prefixes can be cut anywhere
        params.no_perf = True
        if pooling is not None:
            params.embeddings = True
            params.pooling_type = pooling
        _recent.clear()
        self.model = model
        self.handle = C.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise OutOfMemory(
                f"llama.cpp could not create a context of {streams} x {num_ctx} tokens: {_reason()}",
                "lower num_ctx or num_parallel",
            )
        self.memory = C.llama_get_memory(self.handle)
        self.batch = batch
        self.num_ctx = min(num_ctx, int(C.llama_n_ctx_seq(self.handle)))
        self.can_shift = bool(self.memory and C.llama_memory_can_shift(self.memory))
        self.threads = threads
        self._views: dict[int, npt.NDArray[np.float32]] = {}

    def decode(self, batch: Batch) -> int:
        """llama.cpp's own code: 0 done, 1 no room, 2 aborted, negative failed."""
        return int(C.llama_decode(self.handle, batch.native))

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
        """The pooled vector of a sequence of the last batch, copied."""
        pointer = C.llama_get_embeddings_seq(self.handle, sequence)
        if not pointer:
            raise EngineError(f"llama.cpp has no embedding for sequence {sequence}")
        return np.ctypeslib.as_array(pointer, (self.model.embedding_size,)).copy()

    def set_threads(self, threads: int) -> None:
        """For every decode from now on."""
        if threads != self.threads:
            C.llama_set_n_threads(self.handle, threads, threads)
            self.threads = threads

    def trim(self, stream: int, length: int) -> bool:
        """Forget all but the first `length` tokens; False where this kind of memory cannot."""
        return bool(C.llama_memory_seq_rm(self.memory, stream, length, -1))

    def clear(self) -> None:
        """Forget every stream's tokens. What they left in the cells is overwritten before it is read."""
        C.llama_memory_clear(self.memory, False)

    def discard(self, stream: int, start: int, end: int) -> None:
        """Drop tokens `start` to `end` and move what follows down."""
        C.llama_memory_seq_rm(self.memory, stream, start, end)
        C.llama_memory_seq_add(self.memory, stream, end, -1, start - end)

    def span(self, stream: int) -> tuple[int, int]:
        """The first and last position in memory, (-1, -1) when empty."""
        return (
            int(C.llama_memory_seq_pos_min(self.memory, stream)),
            int(C.llama_memory_seq_pos_max(self.memory, stream)),
        )

    def save(self, stream: int) -> ctypes.Array[ctypes.c_uint8]:
        """The stream's state; restored into another one by `restore`."""
        size = C.llama_state_seq_get_size(self.handle, stream)
        data: ctypes.Array[ctypes.c_uint8] = (ctypes.c_uint8 * size)()
        if C.llama_state_seq_get_data(self.handle, data, size, stream) != size:
            raise EngineError(f"llama.cpp could not save the state of stream {stream}")
        return data

    def restore(self, stream: int, state: ctypes.Array[ctypes.c_uint8]) -> bool:
        return bool(C.llama_state_seq_set_data(self.handle, state, len(state), stream))

    def close(self) -> None:
        if self.handle:
            C.llama_free(self.handle)
            self.handle = None
