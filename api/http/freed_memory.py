"""Has memory that was freed go back to the system, where the C library is glibc, which keeps it otherwise.

Other C libraries do not have these calls, and less need of them: there both functions do nothing.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ("map_big_blocks", "return_free_memory")

_M_MMAP_THRESHOLD = -3
_BIG_BLOCK_BYTES = 256 * 1024


def map_big_blocks() -> None:
    """From now on a big block is a mapping of its own, which goes when it is freed, in the whole process.

    By default glibc maps only what is bigger than the biggest block that was freed so far, up to 32 MiB.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _BIG_BLOCK_BYTES)


def return_free_memory() -> None:
    """Free pages between small blocks. Takes milliseconds, without the interpreter's lock."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    # `pythonapi` would hold the interpreter's lock meanwhile.
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
