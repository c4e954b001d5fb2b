"""Where engines keep what they have computed for the models of a store on a disk."""

from __future__ import annotations

import os
from pathlib import Path

from corral.adapters.stores.store_folders import StoreFolders

__all__ = ("computed_folder",)


def computed_folder(root: Path) -> Path:
    """A folder inside the store; for a store that this user cannot write to, one in ``$XDG_CACHE_HOME/corral``. Neither
    need exist.
    """
    inside = StoreFolders(root).prefixes
    nearest = next(folder for folder in (inside, *inside.parents) if folder.exists())
    if os.access(nearest, os.W_OK | os.X_OK):
        return inside
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "corral" / "prefixes"
