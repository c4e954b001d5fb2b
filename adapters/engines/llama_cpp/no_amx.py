"""Prevents llama.cpp from using a CPU's AMX unit.

ggml's AMX code loads the tile configuration with ``_tile_loadconfig``. The header of GCC before 13 tells the compiler
that this reads 8 of the 64 bytes, so the optimiser drops the stores to the rest, and the first matrix product of a
wheel compiled on such a machine dies with SIGSEGV. A process has to ask Linux for AMX (``ARCH_REQ_XCOMP_PERM``), and
Linux refuses while a thread's alternate signal stack is too small for the larger register state. ggml asks once, when
it first lists the CPU's buffer types; if it is refused, it uses its AVX-512 kernels from then on. If another library
has asked before (onnxruntime does when it is imported), it is too late to refuse.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_cpp._ggml import libggml

from corral.core.errors import LoadFailed

__all__ = ("avoid_amx",)

_STACK_BYTES = 4096  # above Linux's MINSIGSTKSZ (2048), below a signal frame with AMX tiles (more than 8192)
_CPU_DEVICE = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_ARCH_PRCTL, _ARCH_GET_XCOMP_PERM, _XTILEDATA = 158, 0x1022, 1 << 18

_decided = False


class _SignalStack(ctypes.Structure):
    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def avoid_amx() -> None:
    """Let ggml ask for AMX now, so that it is refused. Only the first call in a process has an effect, and only on such
    CPUs.

    Raises `LoadFailed` if the process has AMX already, since the next matrix product might crash it.
    """
    global _decided
    if _decided or not _has_amx():
        return
    if _is_granted():
        raise LoadFailed(
            "another library in this process has enabled AMX, which may crash llama.cpp",
            "run the model with runner = process; with a llama.cpp compiled by GCC 13 or newer, set amx = true",
        )
    _decided = True
    with _small_signal_stack(), _silent_stderr():
        _list_buffer_types()


def _has_amx() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return " amx_tile" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False


def _is_granted() -> bool:
    mask = ctypes.c_uint64()
    asked = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_GET_XCOMP_PERM, ctypes.byref(mask)) == 0
    return asked and bool(mask.value & _XTILEDATA)


def _list_buffer_types() -> None:
    """What llama.cpp does when it loads a first model."""

    def function(name: str, result: type[ctypes.c_void_p], *arguments: type) -> ctypes._CFunctionType:
        return ctypes.CFUNCTYPE(result, *arguments)((name, libggml))

    pointer = ctypes.c_void_p
    device = function("ggml_backend_dev_by_type", pointer, ctypes.c_int)(_CPU_DEVICE)
    if not device:
        return
    registry = function("ggml_backend_dev_backend_reg", pointer, pointer)(device)
    find = function("ggml_backend_reg_get_proc_address", pointer, pointer, ctypes.c_char_p)
    address = find(registry, b"ggml_backend_dev_get_extra_bufts")
    if address:
        ctypes.CFUNCTYPE(pointer, pointer)(address)(device)


@contextmanager
def _small_signal_stack() -> Iterator[None]:
    libc = ctypes.CDLL(None)
    memory = ctypes.create_string_buffer(_STACK_BYTES)
    small = _SignalStack(ctypes.cast(memory, ctypes.c_void_p).value, 0, _STACK_BYTES)
    before = _SignalStack()
    replaced = libc.sigaltstack(ctypes.byref(small), ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if replaced:
            libc.sigaltstack(ctypes.byref(before), None)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """ggml reports the refusal on stderr, bypassing its log."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
