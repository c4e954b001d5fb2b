"""LoRA adapters of one model in memory, and the contexts that apply them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import llama_cpp as C

from corral.adapters.engines.llama_cpp.native_log import failure_reason, forget_log
from corral.core.errors import EngineError, InvalidModelFile, OutOfMemory
from corral.core.specs.engines import LocalFile

__all__ = ("LoadedAdapter", "apply_adapters", "load_adapters")


class LoadedAdapter(NamedTuple):
    """llama.cpp frees it with its model."""

    handle: Any
    name: str
    scale: float
    size_bytes: int


def load_adapters(model: Any, files: Sequence[LocalFile]) -> tuple[LoadedAdapter, ...]:
    """Call before any context of the model is created: llama.cpp sizes their graphs by the adapters that it knows.

    The files must have been found to fit the model: llama.cpp does not check everything. Raises `InvalidModelFile`,
    `OutOfMemory`.
    """
    loaded = []
    for file in files:
        name = file.name or (file.digest or file.path)[:19]
        forget_log()
        handle = C.llama_adapter_lora_init(model, file.path.encode())
        if not handle:
            reason = failure_reason()
            if "alloc" in reason:
                raise OutOfMemory(f"llama.cpp could not load the adapter: {reason}", "free memory")
            raise InvalidModelFile(f"llama.cpp could not load the adapter {name}: {reason}")
        loaded.append(LoadedAdapter(handle, name, file.scale, os.path.getsize(file.path)))
    return tuple(loaded)


def apply_adapters(context: Any, adapters: Sequence[LoadedAdapter]) -> None:
    """Apply all of these, and no other, to what the context computes from now on."""
    if not adapters:
        return
    handles = (C.llama_adapter_lora_p_ctypes * len(adapters))(
        *(ctypes.cast(adapter.handle, C.llama_adapter_lora_p_ctypes) for adapter in adapters)
    )
    scales = (ctypes.c_float * len(adapters))(*(adapter.scale for adapter in adapters))
    if C.llama_set_adapters_lora(context, handles, len(adapters), scales) != 0:
        raise EngineError("llama.cpp could not apply the adapters")
