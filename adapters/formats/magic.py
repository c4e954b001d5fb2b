"""Recognizes files by their first bytes."""

from __future__ import annotations

from corral.core.random_access import RandomAccess

__all__ = ("begins_with",)


def begins_with(source: RandomAccess, magic: bytes) -> bool:
    """False also if the file is too short."""
    return source.read(0, len(magic)) == magic
