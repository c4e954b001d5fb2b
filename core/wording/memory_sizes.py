"""How amounts of memory are written for people."""

from __future__ import annotations

__all__ = ("memory_size",)


def memory_size(size_bytes: int) -> str:
    """``1.5 GiB``; below one, ``512 MiB``."""
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
