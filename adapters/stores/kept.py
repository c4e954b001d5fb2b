"""Keeps blobs when another program on the same store deletes those that its own manifests do not name."""

from __future__ import annotations

import os
from collections.abc import Iterable

from corral.adapters.stores.blob_files import blob_file_name
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.files import make_folder, storage_errors
from corral.core.models.digests import Digest

__all__ = ("keep",)


def keep(folders: StoreFolders, digests: Iterable[Digest]) -> None:
    """Gives each existing blob a second name, which Ollama does not see; without hard links, it becomes its only name.
    Blocking. Raises `StorageError`."""
    with storage_errors(f"cannot keep blobs in {folders.kept}"):
        make_folder(folders.kept)
        for digest in digests:
            name = blob_file_name(digest)
            path, kept = folders.blobs / name, folders.kept / name
            if os.path.lexists(kept) or not path.is_file():
                continue
            try:
                os.link(os.path.realpath(path), kept)  # a hard link to a symbolic link would be another symbolic link
            except FileExistsError:
                continue
            except OSError:
                os.replace(path, kept)
