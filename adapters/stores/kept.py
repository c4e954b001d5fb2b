"""Blobs that stay when another program on the same store deletes what none of its own manifests names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from corral.adapters.stores.files import StoreFolders, storage_errors
from corral.core.models.digests import Digest, parse_digest

__all__ = ("blob_path", "forget", "keep")


def blob_path(folders: StoreFolders, digest: Digest) -> Path:
    """Where the blob is, or would be. Raises `InvalidDigest`: nothing else ever becomes a path."""
    name = _file_name(digest)
    path, kept = folders.blobs / name, folders.kept / name
    return kept if not os.path.lexists(path) and os.path.lexists(kept) else path


def keep(folders: StoreFolders, digests: Iterable[Digest]) -> None:
    """Gives each blob that is there a second name, which an Ollama does not see; where the file system has no hard
    links its only one. Blocking. Raises `StorageError`."""
    with storage_errors(f"cannot keep blobs in {folders.kept}"):
        folders.kept.mkdir(parents=True, exist_ok=True, mode=0o755)
        for digest in digests:
            name = _file_name(digest)
            path, kept = folders.blobs / name, folders.kept / name
            if os.path.lexists(kept) or not path.is_file():
                continue
            try:
                os.link(os.path.realpath(path), kept)  # a hard link to a link would be one more link
            except FileExistsError:
                continue
            except OSError:
                os.replace(path, kept)


def forget(folders: StoreFolders, digest: Digest) -> bool:
    """Deletes the blob under both names. True where it was there."""
    found = False
    for folder in (folders.blobs, folders.kept):
        with suppress(FileNotFoundError):
            (folder / _file_name(digest)).unlink()
            found = True
    return found


def _file_name(digest: Digest) -> str:
    return f"sha256-{parse_digest(digest).partition(':')[2]}"
