"""The manifest ports: names to manifests, and the formats that manifests are written in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.models.model import Model
from corral.core.models.names import ModelName
from corral.core.values import Value

__all__ = ("ManifestBlob", "ManifestEntry", "ManifestFormat", "ManifestStore", "StoredManifest")


class StoredManifest(Value, frozen=True, kw_only=True):
    """A manifest as stored. `data` are the exact bytes (the digest is over them); `modified_at` seconds since 1970.

    `replaced` is set by `ManifestStore.put` only: the bytes that were stored under the name until then. None if there
    were none, or none that could be read.
    """

    name: ModelName
    data: bytes
    digest: Digest
    modified_at: float
    replaced: bytes | None = None


class ManifestEntry(Value, frozen=True, kw_only=True):
    """A manifest in a list: its name as stored, the digest of its bytes, and its time in seconds since 1970."""

    name: ModelName
    digest: Digest
    modified_at: float


class ManifestStore(Protocol):
    """Maps names to the bytes of manifests. Lookups ignore case, and return the spelling that was stored first."""

    async def get(self, name: ModelName) -> StoredManifest | None:
        """None if there is no such name. Raises `StorageError` if the manifest cannot be read."""
        ...

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        """Create or replace atomically, and return in `replaced` what was replaced.

        `if_digest`: replace only that version, else raise `Conflict`. A manifest that cannot be read is replaced too.
        Raises `Conflict` if the name belongs to something of another program, and `ReadOnly`.
        """
        ...

    async def delete(self, name: ModelName) -> bool:
        """True if it existed, readable or not. Folders that become empty are deleted too.

        Raises `ReadOnly` if the manifest is in a layer, or in a store, that is only read.
        """
        ...

    def list(self, *, strict: bool = False) -> AsyncIterator[ManifestEntry]:
        """Every readable manifest, without its bytes; an unreadable one, or a folder of them, is logged and skipped.

        `strict`: raises `StorageError` instead, unless the entry cannot contain a manifest, and so names no blob.
        """
        ...

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        """Keeps manifests and the blobs that they name consistent, across the tasks and processes on a store.

        Held shared from checking a manifest's blobs until the manifest is put; held exclusively while blobs that no
        manifest names are deleted. Raises `Conflict` if it is held elsewhere for longer than half a minute.
        """
        ...

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        """Held by whoever is creating the model of this name; other tasks and processes wait until it is released."""
        ...


class ManifestBlob(Value, frozen=True, kw_only=True):
    """A blob that a manifest names. `path` is the file's name inside a folder model; `ManifestFormat.read` needs the
    blobs with `is_text`."""

    digest: Digest
    size_bytes: int
    path: str | None = None
    is_text: bool = False


class ManifestFormat(Protocol):
    """One manifest format (Ollama's, OCI ModelPack, …), read into a `Model` and written from one.

    The bytes are untrusted: anything wrong with them is a `StorageError`.
    """

    @property
    def name(self) -> str: ...

    def recognises(self, manifest: bytes) -> bool:
        """Cheap, and never raises."""
        ...

    def blobs(self, manifest: bytes) -> tuple[ManifestBlob, ...]:
        """Every blob that the manifest names, the config first; their sizes add up to the model's.

        Raises `StorageError` for a malformed manifest, and for a text that is too large.
        """
        ...

    def read(self, manifest: bytes, texts: Mapping[Digest, bytes]) -> Model:
        """`texts` holds the blobs with `is_text`, as far as they exist. Raises `StorageError`."""
        ...

    def write(self, name: ModelName, model: Model) -> tuple[bytes, tuple[bytes, ...]]:
        """A new manifest, and the small blobs (config, texts) that must be stored before it.

        Raises `Unsupported` if the format cannot hold the model. An existing manifest is never rewritten: its bytes,
        and with them its digest, are kept.
        """
        ...
