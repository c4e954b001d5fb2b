"""Checks the relative paths of a model's files, so that they are valid on every system."""

from __future__ import annotations

import re
from collections.abc import Iterable

from corral.core.errors import StorageError

__all__ = ("check_together", "path_parts")

_DEPTH_LIMIT = 16
_PART_LIMIT_BYTES = 255
# Control characters, and what Windows interprets as a separator, a drive, a stream or a pattern.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
# Windows device names, with any suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)


def path_parts(path: str) -> tuple[str, ...]:
    """The parts of a path such as ``onnx/model.onnx``. Raises `StorageError` for an unsafe path.

    Absolute paths, ``..``, empty parts, backslashes, control characters, and names that a system reserves are refused:
    an untrusted manifest must name the same file everywhere.
    """
    parts = tuple(path.split("/"))
    for part in parts:
        try:
            size_bytes = len(part.encode())
        except UnicodeEncodeError:
            size_bytes = 0
        if (
            not 0 < size_bytes <= _PART_LIMIT_BYTES
            or part[-1] in ". "
            or _FORBIDDEN.search(part)
            or _DEVICES.fullmatch(part)
        ):
            raise StorageError(f"{path[:200]!r} is not a valid path for a model's file", "rename the file")
    if len(parts) > _DEPTH_LIMIT:
        raise StorageError(
            f"{path[:200]!r} is more than {_DEPTH_LIMIT} folders deep", "move the file to a higher folder"
        )
    return parts


def check_together(paths: Iterable[str]) -> None:
    """Raises `StorageError` if `path_parts` does, and for paths that cannot be in one folder.

    These are paths that differ only in case, and a path that is also the folder of another.
    """
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    for path in paths:
        parts = tuple(part.casefold() for part in path_parts(path))
        above = {parts[:depth] for depth in range(1, len(parts))}
        if parts in files or parts in folders or not files.isdisjoint(above):
            raise StorageError(f"{path[:200]!r} occurs twice, or is both a file and a folder", "rename the file")
        files.add(parts)
        folders |= above
