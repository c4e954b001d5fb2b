"""Keeps blobs when another program on the same store deletes those that its own manifests do not name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.files import make_folder, storage_errors
from corral.core.models.digests import Digest, parse_digest

__all__ = ("blob_path", "forget", "keep")


def blob_path(folders: StoreFolders, digest: Digest) -> Path:
    """Where the blob is, or would be. Raises `InvalidDigest`, so nothing but a digest becomes a path."""
    name = _file_name(digest)
    path, kept = folders.blobs / name, folders.kept / name
    return kept if not os.path.lexists(path) and os.path.lexists(kept) else path


def keep(folders: StoreFolders, digests: Iterable[Digest]) -> None:
    """Gives each existing blob a second name, which Ollama does not see; without hard links, it becomes its only name.
    Blocking. Raises `StorageError`."""
    with storage_errors(f"cannot keep blobs in {folders.kept}"):
        make_folder(folders.kept)
        for digest in digests:
            name = _file_name(digest)
            path, kept = folders.blobs / name, folders.kept / name
            if os.path.lexists(kept) or not path.is_file():
                continue
            try:
                os.link(os.path.realpath(path), kept)  # a hard link to a symbolic link would be another symbolic link
            except FileExistsError:
                continue
            except OSError:
                os.replace(path, kept)


def forget(folders: StoreFolders, digest: Digest) -> bool:
    """Deletes the blob under both names. True if it existed."""
    found = False
    for folder in (folders.blobs, folders.kept):
        with suppress(FileNotFoundError):
            (folder / _file_name(digest)).unlink()
            found = True
    return found


def _file_name(digest: Digest) -> str:
    return f"sha256-{parse_digest(digest).partition(':')[2]}"
