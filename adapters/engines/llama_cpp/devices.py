"""The devices that this build of llama.cpp can use, from ggml's registry. Called in a separate process."""

from __future__ import annotations

import ctypes
import re
from typing import Any

from llama_cpp._ctypes_extensions import load_shared_library
from llama_cpp._ggml import libggml, libggml_base_path

from corral.adapters.system.memory import free_memory
from corral.core.specs.engines import Device

__all__ = ("devices",)

_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU


def devices() -> list[Device]:
    """Every device, the processor first."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    base = load_shared_library("ggml-base", libggml_base_path)
    count = _function(libggml, "ggml_backend_dev_count", size)
    get = _function(libggml, "ggml_backend_dev_get", pointer, size)
    kind = _function(base, "ggml_backend_dev_type", ctypes.c_int, pointer)
    name = _function(base, "ggml_backend_dev_name", ctypes.c_char_p, pointer)
    description = _function(base, "ggml_backend_dev_description", ctypes.c_char_p, pointer)
    memory = _function(base, "ggml_backend_dev_memory", None, pointer, pointer, pointer)
    found = []
    for index in range(count()):
        device = get(index)
        free, total = size(), size()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        is_cpu = kind(device) == _CPU
        found.append(
            Device(
                kind="cpu" if is_cpu else _kind(name(device).decode()),
                name=description(device).decode(errors="replace").strip() or name(device).decode(),
                total_bytes=total.value or None,
                free_bytes=free_memory().get("cpu") if is_cpu else free.value,
            )
        )
    return sorted(found, key=lambda device: device.kind != "cpu")


def _kind(name: str) -> str:
    """``CUDA0`` is a ``cuda``, ``Vulkan1`` a ``vulkan``."""
    return re.sub(r"\d+$", "", name).lower()


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)
    return function
