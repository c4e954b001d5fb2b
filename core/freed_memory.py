"""Returns freed memory to the system. Only glibc needs this, because it would keep the memory.

Other C libraries do not have these calls, and need them less: with those, both functions do nothing.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ("map_big_blocks", "return_free_memory")

_M_MMAP_THRESHOLD = -3
_BIG_BLOCK_BYTES = 256 * 1024


def map_big_blocks() -> None:
    """Makes every large block a separate mapping from now on, which is unmapped when it is freed. Affects the process.

    By default glibc maps only blocks larger than the largest one freed so far, up to 32 MiB.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _BIG_BLOCK_BYTES)


def return_free_memory() -> None:
    """Returns free pages between small blocks. Takes milliseconds, without holding the interpreter lock."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    # `pythonapi` would hold the interpreter lock during the call.
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
