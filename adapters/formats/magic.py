"""What a file is by its first bytes."""

from __future__ import annotations

from pathlib import Path

from corral.adapters.system.regular_files import open_regular

__all__ = ("begins_with",)


def begins_with(path: Path, magic: bytes) -> bool:
    """False for a file that is missing, unreadable or too short as well, and for what is no regular file."""
    try:
        with open_regular(path) as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
