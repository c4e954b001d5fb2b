"""Where the files of blobs lie: in Ollama's folder, or in one that other programs lay out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.files import make_folder, storage_errors
from corral.core.errors import InvalidDigest
from corral.core.models.digests import Digest, parse_digest

__all__ = ("BlobFiles", "OllamaBlobFiles", "blob_file_name")


class BlobFiles(Protocol):
    """The files of a store's blobs. Every method blocks, apart from `path` and `changing`."""

    @property
    def folder(self) -> Path:
        """Where new blobs go."""
        ...

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be. Raises `InvalidDigest`, so nothing but a digest becomes a path."""
        ...

    def prepare(self) -> None:
        """Creates what must be there before a blob. Raises `OSError`, `StorageError`."""
        ...

    def digests(self) -> Sequence[Digest]:
        """Those that `BlobStore.list` shows, whether or not they are whole."""
        ...

    def delete(self, digest: Digest) -> bool:
        """What `BlobStore.delete` promises. The caller is in `changing`."""
        ...

    def changing(self) -> AbstractAsyncContextManager[object]:
        """Held while a blob is deleted."""
        ...


class OllamaBlobFiles:
    """``blobs/sha256-<hex>``, and ``.corral/kept`` for blobs that Ollama would delete there."""

    def __init__(self, folders: StoreFolders) -> None:
        self._folders = folders

    @property
    def folder(self) -> Path:
        return self._folders.blobs

    def path(self, digest: Digest) -> Path:
        name = blob_file_name(digest)
        path, kept = self._folders.blobs / name, self._folders.kept / name
        return kept if not os.path.lexists(path) and os.path.lexists(kept) else path

    def prepare(self) -> None:
        for folder in (self._folders.manifests, self._folders.blobs):  # see `ManifestListing`
            make_folder(folder)

    def digests(self) -> Sequence[Digest]:
        found = set[Digest]()
        for folder in (self._folders.blobs, self._folders.kept):
            with storage_errors(f"cannot list {folder}"), suppress(FileNotFoundError):
                for name in os.listdir(folder):
                    with suppress(InvalidDigest):
                        found.add(parse_digest(name))
        return sorted(found)

    def delete(self, digest: Digest) -> bool:
        """Deletes the blob under both names."""
        found = False
        for folder in (self._folders.blobs, self._folders.kept):
            with suppress(FileNotFoundError):
                (folder / blob_file_name(digest)).unlink()
                found = True
        return found

    def changing(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()


def blob_file_name(digest: Digest) -> str:
    """The name of a blob's file in Ollama's folder. Raises `InvalidDigest`."""
    return f"sha256-{parse_digest(digest).partition(':')[2]}"
