"""Keeps llama.cpp from using a CPU's AMX unit.

ggml's AMX code loads the tile configuration with ``_tile_loadconfig``. The header of GCC before 13 tells the compiler
that this reads 8 of the 64 bytes, so the optimiser drops the stores to the rest, and the first matrix product of a
wheel compiled on such a machine dies with SIGSEGV. A process has to ask Linux for AMX (``ARCH_REQ_XCOMP_PERM``), and
Linux says no while a thread's alternate signal stack is too small for the larger register state. ggml then falls back
to AVX-512. ggml asks once, when it first lists its buffer types, so the small stack is needed for the first load
only.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ("without_amx",)

_STACK_BYTES = 4096  # above Linux's MINSIGSTKSZ (2048), below a signal frame with AMX tiles (more than 8192)


class _SignalStack(ctypes.Structure):
    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


@contextmanager
def without_amx() -> Iterator[None]:
    """While this lasts, on Linux, no request for AMX by this process is granted; elsewhere it does nothing."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    memory = ctypes.create_string_buffer(_STACK_BYTES)
    small = _SignalStack(ctypes.cast(memory, ctypes.c_void_p).value, 0, _STACK_BYTES)
    before = _SignalStack()
    replaced = libc.sigaltstack(ctypes.byref(small), ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if replaced:
            libc.sigaltstack(ctypes.byref(before), None)
