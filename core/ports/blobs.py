"""The blob-store ports: bytes by digest, written in parts, and available as local files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.values import Value

__all__ = ("BlobInfo", "BlobStore", "BlobWriter", "LocalBlobs", "OnStored", "ignore_digest")

OnStored = Callable[[Digest], None]
"""Gets the digest of a blob that was stored."""


def ignore_digest(digest: Digest) -> None:
    """The default `OnStored`."""


class BlobInfo(Value, frozen=True, kw_only=True):
    """A complete blob. `modified_at` is when its bytes were stored, or stored again, in seconds since 1970; None if the
    store cannot tell."""

    digest: Digest
    size_bytes: int
    modified_at: float | None = None


class BlobWriter(Protocol):
    """A blob that is being written. Nothing is visible under its digest before `commit` returns.

    The caller of `begin` calls `commit`, `abort` or `close`; after that, `write` and `commit` raise `StorageError`. If
    the process dies, it is as if `close` had been called.
    """

    @property
    def written(self) -> Sequence[tuple[int, int]]:
        """The ranges that are written, sorted, as (start, end) in bytes, including what an earlier writer left."""
        ...

    async def write(self, offset_bytes: int, data: bytes) -> None:
        """Writes a range, in any order; several tasks may write at once.

        Raises `OutOfSpace` on a full disk, `StorageError` past the announced size.
        """
        ...

    async def commit(self) -> BlobInfo:
        """Verifies size and digest, then publishes. Raises `DigestMismatch`; the bad bytes are gone afterwards.

        Raises `StorageError` if bytes are missing; the writer stays usable then.
        """
        ...

    async def abort(self) -> None:
        """Drops the partial blob. Does nothing after `commit`, `abort` or `close`."""
        ...

    async def close(self) -> None:
        """Releases the partial blob, and keeps it so that a later `begin` can resume it; without a digest, `abort`."""
        ...


class BlobStore(Protocol):
    """Content-addressed bytes. Safe for concurrent tasks, and for other processes on the same store."""

    async def stat(self, digest: Digest) -> BlobInfo | None:
        """None if there is no such blob."""
        ...

    def read(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Chunks of at most 1 MiB, from `start` to `end` (excluded). The caller closes the generator.

        Raises `BlobNotFound` at the first chunk.
        """
        ...

    async def begin(self, digest: Digest | None = None, size_bytes: int | None = None) -> BlobWriter:
        """A writer, which resumes a partial blob of the same digest. Without a digest, `commit` computes it.

        Raises `Conflict` if another writer, in this or another process, holds this digest.
        """
        ...

    async def partial(self, digest: Digest) -> Sequence[tuple[int, int]]:
        """What is written of a blob that is not committed, as `BlobWriter.written`: to watch a writer elsewhere.

        Empty if there is nothing. May lag behind the writer.
        """
        ...

    async def delete(self, digest: Digest) -> bool:
        """Returns True if it existed. False also for a blob that is not this store's to delete: `list` omits it.

        Raises `ReadOnly` if the store refuses deletions altogether.
        """
        ...

    def list(self) -> AsyncIterator[BlobInfo]:
        """All complete blobs that may be deleted if no manifest names them.

        Not among them are blobs of read-only layers, and what other programs keep in the same store.
        """
        ...

    async def hold(self, digest: Digest) -> None:
        """Notes that this process needs the blob until it ends, although no manifest names it yet.

        What deletes unused blobs spares it, in every process on the store; `delete` itself does not ask. Holds are
        counted: each is ended by a `release`.
        """
        ...

    async def release(self, digest: Digest) -> None:
        """Ends one hold of this process, if it has any: a manifest names the blob by now."""
        ...

    async def held(self) -> frozenset[Digest]:
        """Every blob that a living process holds; those of dead processes are forgotten."""
        ...


class LocalBlobs(Protocol):
    """Blobs as local files, which engines map: a store of files, or a cache in front of a remote one."""

    def local(self, digest: Digest) -> AbstractAsyncContextManager[Path]:
        """The blob as a file, fetched first if need be. Callers only read it.

        While the context lasts, the file stays: it is not evicted, and if the blob is deleted, by this process or
        another, its bytes go afterwards. Raises `BlobNotFound`, `StorageError`, `OutOfSpace`.
        """
        ...

    def path(self, digest: Digest) -> Path:
        """Where the blob's file is, or would be, for display. To open it, use `local`."""
        ...

    async def adopt(self, file: Path, *, on_stored: OnStored = ignore_digest) -> BlobInfo:
        """Add a file to the store by reflink, else hard link, else copy. The file itself is left untouched.

        Once the blob is in the store, `on_stored` gets its digest before the call ends, also if the call then fails or
        is cancelled and returns nothing: nobody else could delete what no manifest will name.

        A hard-linked blob is hashed again if its size, mtime or inode no longer match what was recorded, and
        `stat` returns None if its content has changed. Raises `StorageError`, `OutOfSpace`.
        """
        ...

    async def folder(self, key: Digest, files: Mapping[str, Digest], *, elsewhere: Mapping[Digest, Path] = {}) -> Path:
        """A folder that holds the blobs under these relative paths, as hard links (else links all of one kind).

        `elsewhere` are the files of blobs that are in another store. Created once for each `key` (a manifest's digest)
        and kept; created again if something is missing. Takes no extra disk space. Raises `BlobNotFound`,
        `StorageError` (also for a path that leads out of the folder).
        """
        ...

    async def drop_folder(self, key: Digest) -> None:
        """Removes what `folder` created for the key, if anything. The blobs stay."""
        ...

    def scratch(self) -> AbstractAsyncContextManager[Path]:
        """An empty folder beside the blobs, for files that will be adopted; deleted at the end of the context.

        A later call deletes what a dead process left.
        """
        ...
