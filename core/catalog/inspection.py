"""What the weights in a store say of themselves: read once per digest, then remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from corral.core.errors import BlobNotFound, InvalidModelFile, map_errors
from corral.core.lru import LruDict
from corral.core.models.digests import Digest
from corral.core.models.model import FileRole, ModelMetadata
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.metadata import MetadataCache, MetadataReader

__all__ = ("WeightsInspector", "missing_blob")

_REMEMBERED = 256  # models; a description is some kilobytes
_KEPT_PAIRS, _KEPT_CHARACTERS = 2048, 65_536  # of a description that is remembered

Tensors = list[tuple[str, str, tuple[int, ...]]]


class WeightsInspector:
    """Answers from memory, else from `cache`, else from the file's header, read in a thread.

    Everything raises `BlobNotFound` for weights that are gone or were changed behind the store's back, and
    `InvalidModelFile` for a header that cannot be read.
    """

    def __init__(
        self,
        *,
        blobs: BlobStore,
        local: LocalBlobs,
        readers: Sequence[MetadataReader],
        cache: MetadataCache | None = None,
    ) -> None:
        self._blobs = blobs
        self._local = local
        self._readers = tuple(readers)
        self._cache = cache
        self._metadata: LruDict[Digest, ModelMetadata] = LruDict(_REMEMBERED)
        self._descriptions: LruDict[Digest, dict[str, object]] = LruDict(_REMEMBERED)

    @property
    def formats(self) -> tuple[str, ...]:
        """The weights formats that can be read."""
        return tuple(reader.format for reader in self._readers)

    async def metadata(self, digest: Digest) -> ModelMetadata | None:
        """None where no reader knows the format."""
        path = await self._path(digest)
        known = self._metadata.get(digest)
        if known is None and self._cache is not None:
            known = await self._cache.get(digest)
        if known is None:
            known = await self.inspect(path)
            if known is not None and self._cache is not None:
                await self._cache.put(digest, known)
        if known is not None:
            self._metadata.put(digest, known)
        return known

    async def describe(self, digest: Digest, *, verbose: bool) -> dict[str, object]:
        """The header's key-values, as `MetadataReader.describe`; empty where no reader knows the format."""
        path = await self._path(digest)
        known = None if verbose else self._descriptions.get(digest)
        if known is None:
            reader = await asyncio.to_thread(self._reader_of, path)
            if reader is None:
                return {}
            with _faults_of(reader, path):
                known = await asyncio.to_thread(reader.describe, path, verbose=verbose)
            if not verbose and _is_worth_keeping(known):
                self._descriptions.put(digest, known)
        return dict(known)

    async def tensors(self, digest: Digest) -> Tensors:
        """Name, type and shape of each tensor; empty where no reader knows the format."""
        path = await self._path(digest)
        reader = await asyncio.to_thread(self._reader_of, path)
        if reader is None:
            return []
        with _faults_of(reader, path):
            return await asyncio.to_thread(reader.tensors, path)

    async def inspect(self, path: Path) -> ModelMetadata | None:
        """As `metadata`, for a file that is in no store yet.

        A file whose suffix promises a format and whose content breaks it is that format's `InvalidModelFile`.
        """
        reader = await asyncio.to_thread(self._reader_of, path)
        if reader is None:
            return None
        with _faults_of(reader, path):
            return await asyncio.to_thread(reader.read, path)

    async def _path(self, digest: Digest) -> Path:
        if await self._blobs.stat(digest) is None:
            raise missing_blob("weights", digest)
        return self._local.path(digest)

    def _reader_of(self, path: Path) -> MetadataReader | None:
        for reader in self._readers:
            if reader.recognises(path):
                return reader
        return next((reader for reader in self._readers if path.suffix.lower() == f".{reader.format}"), None)


def missing_blob(role: FileRole, digest: Digest) -> BlobNotFound:
    """The error for a file of a model that is gone, or was changed behind the store's back."""
    return BlobNotFound(
        f"the {role} blob {digest} is missing from the store, or has changed since it was imported",
        "import or pull the model again",
    )


def _faults_of(reader: MetadataReader, path: Path) -> AbstractContextManager[None]:
    """Whatever a reader stumbles over, a plugin's too, the file is one that it cannot read."""
    return map_errors({Exception: InvalidModelFile}, f"{path}: the {reader.format} reader failed")


def _is_worth_keeping(description: Mapping[str, object]) -> bool:
    texts = sum(len(value) for value in description.values() if isinstance(value, str))
    return len(description) <= _KEPT_PAIRS and texts <= _KEPT_CHARACTERS
