"""The manifest ports: names to manifests, and the formats that manifests are written in."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.values import Value

__all__ = ("ManifestFormat", "ManifestStore", "StoredManifest")


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


class ManifestFormat(Protocol):
    """One manifest dialect: Ollama's, OCI ModelPack, … read into a `StoredModel` and written from one."""

    @property
    def name(self) -> str: ...

    def recognises(self, manifest: bytes) -> bool:
        """Cheap, and never raises."""
        ...

    def small_layers(self, manifest: bytes) -> builtins.list[Digest]:
        """Config and text layers that `read` needs. Raises `StorageError` for a malformed manifest or one too big."""
        ...

    def read(self, stored: StoredManifest, layers: dict[Digest, bytes]) -> StoredModel:
        """`layers` holds what `small_layers` named, as far as the store has it. Raises `StorageError`."""
        ...

    def write(self, record: StoredModel, metadata: ModelMetadata | None) -> tuple[bytes, builtins.list[bytes]]:
        """The manifest, and the small blobs (config, texts) to be stored before it. `record.digest` is not read."""
        ...
