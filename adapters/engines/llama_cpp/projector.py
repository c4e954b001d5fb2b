"""A model's projector, through llama.cpp's mtmd: turns the pixels of an image into vectors for the model."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp as C
import numpy as np
import numpy.typing as npt
from llama_cpp import mtmd_cpp as M

from corral.adapters.engines.llama_cpp.image_cells import ImageCells, ImagePiece
from corral.adapters.engines.llama_cpp.native_log import collect_image_log, failure_reason, forget_log
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.core.errors import EngineError, LoadFailed

__all__ = ("Projector",)

_SECTIONS = 4  # of a position, in models with M-RoPE


class Projector:
    """Raises `LoadFailed`, with the reason, if llama.cpp does not support it or it belongs to another model.

    One thread at a time, which need not be the one that computes answers: the encoder has its own graph and buffers.
    """

    def __init__(self, path: str, model: LlamaModel, *, gpu: bool, threads: int) -> None:
        params = M.mtmd_context_params_default()
        params.use_gpu = gpu
        params.print_timings = False
        params.n_threads = threads
        collect_image_log()
        forget_log()
        self._handle = M.mtmd_init_from_file(path.encode(), model.handle, params)
        if not self._handle:
            raise LoadFailed(f"llama.cpp could not load the projector: {failure_reason()}")
        self.sees = bool(M.mtmd_support_vision(self._handle))
        self._sections = _SECTIONS if M.mtmd_decode_use_mrope(self._handle) else 1
        self._width = int(C.llama_model_n_embd_inp(model.handle))

    def encode(self, pixels: npt.NDArray[np.uint8], key: int) -> list[ImagePiece]:
        """Everything that stands for the image in a prompt. `key` is a number for its content. Raises `EngineError`."""
        forget_log()
        height, width, _ = pixels.shape
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        with _freed(M.mtmd_bitmap_init(width, height, data), M.mtmd_bitmap_free) as bitmap:
            part = M.mtmd_input_part(None, bitmap)
            parts = (ctypes.POINTER(M.mtmd_input_part) * 1)(ctypes.pointer(part))
            with _freed(M.mtmd_input_chunks_init(), M.mtmd_input_chunks_free) as chunks:
                if M.mtmd_tokenize_from_parts(self._handle, chunks, parts, 1, False) != 0:
                    raise EngineError(f"llama.cpp could not prepare an image: {failure_reason()}")
                count = int(M.mtmd_input_chunks_size(chunks))
                return [self._piece(M.mtmd_input_chunks_get(chunks, number), key, number) for number in range(count)]

    def _piece(self, chunk: Any, key: int, number: int) -> ImagePiece:
        count = ctypes.c_size_t(0)
        if M.mtmd_input_chunk_get_type(chunk) == M.MTMD_INPUT_CHUNK_TYPE_TEXT:
            ids = M.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            return list(ids[: count.value])
        if M.mtmd_encode_chunk(self._handle, chunk) != 0:
            raise EngineError(f"llama.cpp could not encode an image: {failure_reason()}")
        shape = (int(M.mtmd_input_chunk_get_n_tokens(chunk)), self._width)
        offsets = moves = None
        if self._sections > 1:
            image = M.mtmd_input_chunk_get_tokens_image(chunk)
            offsets, next_ones = (_positions(image, first, shape[0]) for first in (0, 1))
            moves = next_ones - offsets
        return ImageCells(
            key=-(key << 16 | number) - (1 << 40),  # below all numbers that stand for tokens
            vectors=np.ctypeslib.as_array(M.mtmd_get_output_embd(self._handle), shape).copy(),
            span=int(M.mtmd_input_chunk_get_n_pos(chunk)),
            causal=not M.mtmd_decode_use_non_causal(self._handle, chunk),
            offsets=offsets,
            moves=moves,
        )

    def close(self) -> None:
        """Call before the model is closed."""
        if self._handle:
            M.mtmd_free(self._handle)
            self._handle = None


def _positions(image: Any, first: int, count: int) -> npt.NDArray[np.int32]:
    """The sections of all positions, in the order in which batches have them, if the first cell is at `first`."""
    found = (M.mtmd_decoder_pos * count)()
    M.mtmd_helper_image_get_decoder_pos(image, first, found)
    rows = np.frombuffer(found, np.uint32).reshape(count, _SECTIONS).astype(np.int32)
    return np.ascontiguousarray(rows[:, (0, 2, 1, 3)].T)


@contextmanager
def _freed(handle: Any, free: Any) -> Iterator[Any]:
    if not handle:
        raise EngineError("llama.cpp has no memory for an image")
    try:
        yield handle
    finally:
        free(handle)
