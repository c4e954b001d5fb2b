"""Opens a GGUF file in llama.cpp, with all of its weights or its vocabulary alone."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import llama_cpp as C

from corral.adapters.engines.llama_cpp.accents import accents_kept, strips_accents
from corral.adapters.engines.llama_cpp.native_log import failure_reason, forget_log
from corral.core.errors import InvalidModelFile, LoadFailed, OutOfMemory
from corral.core.ports.runners import OnLoadProgress

__all__ = ("NativeVocabulary", "file_metadata", "open_file")


def open_file(path: str, params: Any, on_progress: OnLoadProgress) -> Any:
    """The handle of the opened file, which the caller frees.

    Raises `InvalidModelFile`, `OutOfMemory`, `LoadFailed`, and whatever `on_progress` raises to end the load.
    """
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
    overrides = accents_kept()
    params.kv_overrides = overrides
    forget_log()
    handle = C.llama_model_load_from_file(path.encode(), params)
    if stopped:
        if handle:
            C.llama_model_free(handle)
        raise stopped[0]
    if handle:
        return handle
    reason = failure_reason()
    if "unknown model architecture" in reason or "invalid" in reason or "corrupt" in reason:
        raise InvalidModelFile(
            f"llama.cpp does not support this model: {reason}",
            "another engine or a newer version of this one may support it",
        )
    if "alloc" in reason:
        raise OutOfMemory(f"llama.cpp could not load the model: {reason}", "free memory, or lower num_gpu")
    raise LoadFailed(f"llama.cpp could not load the model: {reason}")


def file_metadata(handle: Any, key: str) -> str | None:
    """The value of a key of an opened file, as text; None if it has no such key."""
    text = ctypes.create_string_buffer(512)
    length = C.llama_model_meta_val_str(handle, key.encode(), text, len(text))
    return text.value.decode("utf-8", "replace") if length >= 0 else None


class NativeVocabulary:
    """The vocabulary of a file, without its weights. Must be closed after all who use it.

    Nothing else may be asked of such a model: llama.cpp has not read its dimensions.
    """

    def __init__(self, path: str, on_progress: OnLoadProgress) -> None:
        params = C.llama_model_default_params()
        params.vocab_only = True
        params.n_gpu_layers = 0
        self.handle = open_file(path, params, on_progress)
        self.vocab = C.llama_model_get_vocab(self.handle)
        self.vocabulary_size = int(C.llama_vocab_n_tokens(self.vocab))
        metadata = partial(file_metadata, self.handle)
        self.strips_accents = strips_accents(int(C.llama_vocab_type(self.vocab)), metadata)

    def close(self) -> None:
        if self.handle:
            C.llama_model_free(self.handle)
            self.handle = None
