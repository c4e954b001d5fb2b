"""The needed part of ctransformers' low-level model class: tokens in, logits out. One thread owns it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ctransformers.llm import LLM, Config
from numpy.typing import NDArray

from corral.core.errors import EngineError, LoadFailed

__all__ = ("NativeModel",)

_KINDS_OF_X86 = (("avx2", {"avx2"}), ("avx", {"avx", "f16c"}))


class NativeModel:
    """A loaded model and its only context.

    The caller chooses positions; what was computed at a position is replaced.
    """

    def __init__(self, path: str, *, model_type: str, num_ctx: int, gpu_layers: int = 0, use_mmap: bool = True) -> None:
        """Raises `LoadFailed`. Native code crashes on unexpected files: check them first."""
        config = Config(context_length=num_ctx, gpu_layers=gpu_layers, mmap=use_mmap)
        try:
            self._llm: Any = LLM(path, model_type, config=config, lib=_library() if gpu_layers < 1 else None)
        except (OSError, RuntimeError, ValueError) as error:
            raise LoadFailed(f"{path}: ctransformers: {error}") from error
        self._lib: Any = self._llm._lib
        self._handle: Any = self._llm._llm

    @property
    def num_ctx(self) -> int:
        return int(self._lib.ctransformers_llm_context_length(self._handle))

    @property
    def vocabulary_size(self) -> int:
        return int(self._lib.ctransformers_llm_vocab_size(self._handle))

    def evaluate(self, ids: Sequence[int], position: int, threads: int) -> None:
        """Compute tokens from `position` on; they must fit into the context. Releases the GIL."""
        count = len(ids)
        tokens = (ctypes.c_int * count)(*ids)
        if not self._lib.ctransformers_llm_batch_eval(self._handle, tokens, count, position, count, threads):
            raise EngineError(f"ctransformers could not compute {count} tokens at position {position}")

    def logits(self) -> NDArray[np.float32]:
        """The logits of the last token: a view that the next `evaluate` overwrites."""
        size = int(self._lib.ctransformers_llm_logits_size(self._handle))
        values = np.ctypeslib.as_array(self._lib.ctransformers_llm_logits_data(self._handle), (size,))
        return values[size - self.vocabulary_size :]

    def embedding(self) -> NDArray[np.float32]:
        """A copy of the last token's hidden state; empty for model types that keep none."""
        size = int(self._lib.ctransformers_llm_embeddings_size(self._handle))
        if not size:
            return np.empty(0, np.float32)
        values = np.ctypeslib.as_array(self._lib.ctransformers_llm_embeddings_data(self._handle), (size,))
        return values.copy()

    def close(self) -> None:
        """May be called twice."""
        if self._handle is not None:
            self._lib.ctransformers_llm_delete(self._handle)
            self._handle = self._llm._llm = None


def _library() -> str | None:
    """The build for this processor; None lets ctransformers find it, which takes a second and a child process."""
    folder = Path(sys.modules[LLM.__module__].__file__ or "").parent / "lib"
    if (folder / "local").is_dir():
        return None
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    flags = next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), set())
    return next((name for name, needed in _KINDS_OF_X86 if needed <= flags), None)
