"""The path of a model's manifest in Ollama's layout, found regardless of case, and the name that a path stands for."""

from __future__ import annotations

import os
from pathlib import Path

from corral.core.errors import InvalidName, StorageError
from corral.core.models.names import ModelName, parse_name

__all__ = ("LEVELS", "check_name", "is_name", "name_of", "spelt")

LEVELS = 4
"""Host, namespace, model and tag."""


def check_name(name: ModelName) -> None:
    """Raises `InvalidName` for a name that did not come from `parse_name`: it must not become a path."""
    if parse_name(name.full).parts != name.parts:
        raise InvalidName(f"invalid model name: {name.full[:100]!r}")


def name_of(path: Path) -> ModelName:
    host, namespace, model, tag = path.parts[-LEVELS:]
    return ModelName(host=host, namespace=namespace, model=model, tag=tag)


def is_name(path: Path) -> bool:
    try:
        check_name(name_of(path))
    except InvalidName:
        return False
    return True


def spelt(root: Path, name: ModelName) -> tuple[Path, tuple[Path, ...]]:
    """The path below `root`, in the spelling found on disk as far as it exists. Blocking.

    Also returns the paths in the exact spelling, which would take precedence, for each part that is spelt differently
    on disk.
    """
    path, preferred = root, list[Path]()
    for part in name.parts:
        found = _spelling(path, part)
        if found != part:
            preferred.append(path / part)
        path /= found
    return path, tuple(preferred)


def _spelling(folder: Path, part: str) -> str:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return part
    except OSError as error:
        raise StorageError(f"cannot list {folder}: {error.strerror}") from error
    if part in names:
        return part
    return next((name for name in sorted(names) if name.lower() == part.lower()), part)
