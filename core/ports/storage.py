"""The model and blob-store ports: where manifests and layers live, and how a file tells what it is."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from corral.core.models import Digest, ModelMetadata, ModelRecord
from corral.core.names import ModelName
from corral.core.values import Value

__all__ = (
    "BlobInfo",
    "BlobStore",
    "BlobWriter",
    "LocalBlobs",
    "ManifestFormat",
    "ManifestStore",
    "MetadataCache",
    "MetadataReader",
    "StoredManifest",
)


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
    """A blob store whose blobs are files. Engines map these; a store without it gets a cache in front."""

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be. Callers only read."""
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


class StoredManifest(Value, frozen=True, kw_only=True):
    """A manifest as stored. `data` are the exact bytes (the digest is over them); `modified_at` seconds since 1970.

    `replaced`: in the answer of `ManifestStore.put` alone, the bytes that stood under the name until then. None where
    there were none, or none that could be read.
    """

    name: ModelName
    data: bytes
    digest: Digest
    modified_at: float
    replaced: bytes | None = None


class ManifestStore(Protocol):
    """Names to manifest bytes. Lookups ignore case and answer with the spelling that was stored first."""

    async def get(self, name: ModelName) -> StoredManifest | None:
        """None where absent. Raises `StorageError` where the name is there and cannot be read."""
        ...

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        """Replace or create, atomically, and say in `replaced` what was replaced.

        `if_digest`: only over that version, else `Conflict`. A manifest that cannot be read is replaced all the same.
        """
        ...

    async def delete(self, name: ModelName) -> bool:
        """True where it was there, readable or not. Folders left empty go too."""
        ...

    def list(self, *, strict: bool = False) -> AsyncIterator[StoredManifest]:
        """Every readable manifest; an unreadable one, or a folder of them, is logged and passed over.

        `strict`: it raises `StorageError`, unless it cannot hold a manifest at all, and so names no blob.
        """
        ...

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        """Keeps blobs and the manifests that name them together, against tasks and processes on the same store.

        Held shared from finding a manifest's blobs until the manifest is put; held exclusive while blobs that no
        manifest names are deleted. Raises `Conflict` where somebody holds it for longer than half a minute.
        """
        ...

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        """Whoever makes the model of this name holds it alone, among tasks and processes; others wait as long."""
        ...


class MetadataCache(Protocol):
    """Remembers what weights files say of themselves, by digest. Losing an entry costs time, nothing else."""

    async def get(self, digest: Digest) -> ModelMetadata | None:
        """None where unknown, or remembered by a version of Corral that knew other fields. Raises nothing."""
        ...

    async def put(self, digest: Digest, metadata: ModelMetadata) -> None:
        """Raises nothing: an entry that cannot be kept is forgotten."""
        ...


class ManifestFormat(Protocol):
    """One manifest dialect: Ollama's, OCI ModelPack, … read into a `ModelRecord` and written from one."""

    @property
    def name(self) -> str: ...

    def recognises(self, manifest: bytes) -> bool:
        """Cheap, and never raises."""
        ...

    def small_layers(self, manifest: bytes) -> builtins.list[Digest]:
        """Config and text layers that `read` needs. Raises `StorageError` for a malformed manifest or one too big."""
        ...

    def read(self, stored: StoredManifest, layers: dict[Digest, bytes]) -> ModelRecord:
        """`layers` holds what `small_layers` named, as far as the store has it. Raises `StorageError`."""
        ...

    def write(self, record: ModelRecord, metadata: ModelMetadata | None) -> tuple[bytes, builtins.list[bytes]]:
        """The manifest, and the small blobs (config, texts) to be stored before it. `record.digest` is not read."""
        ...


class MetadataReader(Protocol):
    """Reads one weights format's header. No native code; bounds-checked; big arrays are skipped."""

    @property
    def format(self) -> str: ...

    def recognises(self, path: Path) -> bool:
        """By content, never by name. False for a file that is missing or too short."""
        ...

    def read(self, path: Path) -> ModelMetadata:
        """Blocking: call it in a thread. Raises `InvalidModelFile` naming the file, the offset and what is wrong."""
        ...

    def describe(self, path: Path, *, verbose: bool) -> dict[str, object]:
        """The header's key-values for people. Arrays are None unless `verbose`. Blocking; raises as `read`."""
        ...

    def tensors(self, path: Path) -> builtins.list[tuple[str, str, tuple[int, ...]]]:
        """(name, type, shape) of each tensor, in file order. Blocking; raises as `read`."""
        ...
