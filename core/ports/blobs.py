"""The blob-store ports: bytes by digest, written in parts, and as files of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.values import Value

__all__ = ("BlobInfo", "BlobStore", "BlobWriter", "LocalBlobs")


class BlobInfo(Value, frozen=True, kw_only=True):
    digest: Digest
    size_bytes: int


class BlobWriter(Protocol):
    """A blob on its way in. Nothing is visible under its digest before `commit` returns.

    Whoever began it calls `commit`, `abort` or `close`; after that `write` and `commit` raise `StorageError`. A writer
    whose process dies leaves what `close` leaves.
    """

    @property
    def written(self) -> Sequence[tuple[int, int]]:
        """Ranges already there, sorted, as (start, end) in bytes; what an earlier writer left behind counts."""
        ...

    async def write(self, offset_bytes: int, data: bytes) -> None:
        """Raises `OutOfSpace` on a full disk, `StorageError` past the announced size. Ranges may come in any order."""
        ...

    async def commit(self) -> BlobInfo:
        """Verifies size and digest, then publishes. Raises `DigestMismatch`; the bad bytes are gone afterwards.

        Raises `StorageError` where bytes are still missing; the writer stays usable then.
        """
        ...

    async def abort(self) -> None:
        """Drops the partial. Safe to call twice, and after `commit` or `close`, where it does nothing."""
        ...

    async def close(self) -> None:
        """Lets go and keeps the partial for a later `begin` of the digest to resume; without a digest, `abort`."""
        ...


class BlobStore(Protocol):
    """Content-addressed bytes. Safe for many tasks, and for other processes on the same store."""

    async def stat(self, digest: Digest) -> BlobInfo | None:
        """None where absent."""
        ...

    def read(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Chunks of at most 1 MiB, from `start` up to but without `end`. Raises `BlobNotFound` at the first chunk."""
        ...

    async def begin(self, digest: Digest | None = None, size_bytes: int | None = None) -> BlobWriter:
        """A writer, resuming a partial of the same digest. Without a digest it is computed at `commit`.

        Raises `Conflict` where another writer, of this or another process, holds this digest.
        """
        ...

    async def delete(self, digest: Digest) -> bool:
        """True where it was there."""
        ...

    def list(self) -> AsyncIterator[BlobInfo]:
        """All whole blobs; partials do not count."""
        ...


class LocalBlobs(Protocol):
    """Blobs as files of this machine, which engines map: a store of files, or a cache in front of a remote one."""

    def local(self, digest: Digest) -> AbstractAsyncContextManager[Path]:
        """The blob as a file, fetched first if need be. Callers only read it.

        While the context lasts, the file stays: it is not evicted, and if the blob is deleted, by this process or
        another, its bytes go afterwards. Raises `BlobNotFound`, `StorageError`, `OutOfSpace`.
        """
        ...

    def path(self, digest: Digest) -> Path:
        """Where the blob's file is, or would be: to show to people. Open what `local` gives."""
        ...

    async def adopt(self, file: Path) -> BlobInfo:
        """Take a file into the store by reflink, else hard link, else copy; the file itself stays as it is.

        A hard-linked blob is hashed again when size, mtime or inode no longer match what was recorded, and
        `stat` answers None for one whose content has changed. Raises `StorageError`, `OutOfSpace`.
        """
        ...

    async def folder(self, key: Digest, files: Mapping[str, Digest]) -> Path:
        """A folder that holds the blobs under these relative paths, as hard links (else links all of one kind).

        Made once per `key` (a manifest's digest) and kept; made again where something is missing. Costs no second copy
        on disk. Raises `BlobNotFound`, `StorageError` (also for a path that leads out of the folder).
        """
        ...

    async def drop_folder(self, key: Digest) -> None:
        """Removes what `folder` made for the key. Does nothing where there is none; blobs stay."""
        ...

    def scratch(self) -> AbstractAsyncContextManager[Path]:
        """An empty folder beside the blobs for files that will be adopted; it goes with the context.

        Leftovers of a process that died are swept by a later call.
        """
        ...
