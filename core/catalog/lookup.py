"""Finds the models of a store by name, and lists them; a manifest that was read before is not read again."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Sequence

import msgspec

from corral.core.catalog.manifest_reading import read_model, stored_model
from corral.core.errors import CorralError, ModelNotFound, StorageError
from corral.core.lru import LruDict
from corral.core.models.digests import Digest
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestEntry, ManifestFormat, ManifestStore, StoredManifest
from corral.core.specs.converters import DERIVED_HOST

__all__ = ("ModelLookup", "model_not_found")

_log = logging.getLogger(__name__)

_REMEMBERED = 1024
_REMEMBERED_CHARACTERS = 1 << 20  # of the texts of one model
_FILE_CHARACTERS = 200  # how much a model's file counts as


def model_not_found(name: ModelName) -> ModelNotFound:
    return ModelNotFound(f"model '{name}' not found", "corral list shows the available models")


class ModelLookup:
    """Reads manifests in the first of `formats` that recognises them. For one event loop."""

    def __init__(self, *, manifests: ManifestStore, blobs: BlobStore, formats: Sequence[ManifestFormat]) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._formats = tuple(formats)
        self._known: LruDict[Digest, StoredModel] = LruDict(_REMEMBERED)
        self._complained: set[Digest] = set()

    async def manifest(self, name: ModelName) -> StoredManifest:
        """Raises `ModelNotFound`, and `StorageError` if it cannot be read."""
        stored = await self._manifests.get(name)
        if stored is None:
            raise model_not_found(name)
        return stored

    async def get(self, name: ModelName) -> StoredModel:
        """The model, under the spelling that the store has. Raises `ModelNotFound`, `StorageError`."""
        stored = await self.manifest(name)
        while True:
            try:
                return await self._read(stored)
            except StorageError:
                # A model that was replaced between the two reads has lost its config; the new one is wanted.
                found = await self.manifest(name)
                if found.digest == stored.digest:
                    raise
                stored = found

    async def list(self, *, derived: bool) -> builtins.list[StoredModel]:
        """Every readable model, newest first; one that cannot be read is logged once and skipped.

        `derived` includes those that were converted from another model for an engine.
        """
        models = []
        async for entry in self._manifests.list():
            if entry.name.host.lower() == DERIVED_HOST and not derived:
                continue
            try:
                models.append(self._remembered(entry) or await self.get(entry.name))
            except ModelNotFound:  # just deleted
                continue
            except Exception as error:  # a plugin's format may raise anything, and the others must be listed
                self.complain(entry.digest, f"{entry.name} is missing from the list", error)
        return sorted(models, key=lambda model: (-model.modified_at, model.name.key))

    def complain(self, digest: Digest, what: str, error: Exception) -> None:
        """Logs once for each manifest why its model is not complete.

        An error that is not a `CorralError` is a fault in a plugin, and is logged with its traceback.
        """
        if digest not in self._complained:
            self._complained.add(digest)
            _log.warning("%s: %s", what, error, exc_info=None if isinstance(error, CorralError) else error)

    async def _read(self, stored: StoredManifest) -> StoredModel:
        known = self._remembered(stored)
        if known is None:
            model, size_bytes = await read_model(stored.name, stored.data, self._formats, self._blobs)
            known = stored_model(stored, model, size_bytes)
            if _characters(known) <= _REMEMBERED_CHARACTERS:
                self._known.put(stored.digest, known)
        return known

    def _remembered(self, manifest: StoredManifest | ManifestEntry) -> StoredModel | None:
        """The model of a manifest that was read before, under whatever name."""
        known = self._known.get(manifest.digest)
        return known and msgspec.structs.replace(known, name=manifest.name, modified_at=manifest.modified_at)


def _characters(model: StoredModel) -> int:
    """About how many characters a model keeps in memory."""
    texts = [*model.licenses, *(message.content for message in model.messages)]
    texts += [model.system or "", model.template.text if model.template else ""]
    return sum(map(len, texts)) + _FILE_CHARACTERS * len(model.files)
