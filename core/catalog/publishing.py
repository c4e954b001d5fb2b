"""Stores manifests under names: new ones written from a `Model`, existing ones byte for byte."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from corral.core.catalog.deletion import delete_replaced
from corral.core.catalog.lookup import model_not_found
from corral.core.catalog.manifest_reading import blobs_of, read_model, stored_model
from corral.core.errors import Conflict, Unsupported
from corral.core.models.digests import digest_of
from corral.core.models.model import Model, StoredModel
from corral.core.models.names import ModelName
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestFormat, ManifestStore, StoredManifest
from corral.core.values import Value

__all__ = ("BlobGone", "ManifestPublisher", "Published", "until_published")

_ATTEMPTS = 3


class BlobGone(Conflict):
    """A blob was deleted after it was stored and before a manifest named it."""


class Published(Value, frozen=True, kw_only=True):
    """A manifest that was just stored, and the model that it describes."""

    stored: StoredManifest
    record: StoredModel


async def until_published(attempt: Callable[[], Awaitable[Published]]) -> Published:
    """The result of `attempt`, which fetches what the store lacks and publishes it; repeated if a blob is gone.

    That happens if the blob was deleted with an older model that was just replaced. Raises what `attempt` raises.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(BlobGone):
            return await attempt()
    return await attempt()


class ManifestPublisher:
    """Writes the first of `formats` that can hold the model. Safe with concurrent tasks and processes.

    Those named by `preferred` come first, unless the model says what only Ollama's own manifests have a place for.
    Without `prune`, what a replaced model had stays in the store.
    """

    def __init__(
        self,
        *,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        formats: Sequence[ManifestFormat],
        preferred: Sequence[str] = (),
        prune: bool = True,
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._formats = tuple(formats)
        self._preferred = tuple(preferred)
        self._prune = prune

    async def publish(self, name: ModelName, model: Model) -> StoredModel:
        """Stores a model whose blobs are in the store already. A name that is taken is replaced.

        What only the replaced model had is deleted. Raises `Conflict` if a blob is gone, `Unsupported` if no dialect
        can hold the model, and `StorageError` if its own files make it unreadable.
        """
        published = await self.put_model(name, model)
        await self.delete_replaced(published)
        return published.record

    async def put_model(self, name: ModelName, model: Model) -> Published:
        """As `publish`, but leaves what the replaced model had to `delete_replaced`."""
        return await self.put(name, *self.written(name, model))

    async def put(self, name: ModelName, manifest: bytes, texts: Sequence[bytes] = ()) -> Published:
        """Stores a manifest as it is; its digest is that of these bytes. `texts` are small blobs to store with it.

        Every other blob that it names must be in the store: raises `BlobGone`, and `StorageError` if it cannot be read.
        Does not delete what the replaced model had: call `delete_replaced`, outside of every guard.
        """
        known = {digest_of(text): text for text in texts}
        async with self._manifests.guard(exclusive=False):
            for blob in blobs_of(name, manifest, self._formats):
                if blob.digest not in known and await self._blobs.stat(blob.digest) is None:
                    raise BlobGone(f"{blob.path or blob.digest} of '{name}' has been deleted meanwhile", "try again")
            model, size_bytes = await read_model(name, manifest, self._formats, self._blobs, known)
            for text in texts:
                await self._store_text(text)
            stored = await self._manifests.put(name, manifest)
        # From here on the model may be replaced and its blobs deleted: it is not read from the store again.
        return Published(stored=stored, record=stored_model(stored, model, size_bytes))

    async def copy(self, source: ModelName, destination: ModelName) -> None:
        """Stores the manifest of `source` under another name. A name that is taken is replaced, and what only its model
        had is deleted. Raises `ModelNotFound`."""
        async with self._manifests.guard(exclusive=False):
            stored = await self._manifests.get(source)
            if stored is None:
                raise model_not_found(source)
            if stored.name.key == destination.key:
                return
            put = await self._manifests.put(destination, stored.data)
        await self._forget_replaced(put)

    async def delete_replaced(self, published: Published) -> None:
        """Deletes the blobs that only the replaced model used. The caller holds no guard."""
        await self._forget_replaced(published.stored)

    async def _forget_replaced(self, put: StoredManifest) -> None:
        if self._prune:
            await delete_replaced(put, manifests=self._manifests, blobs=self._blobs, local=self._local)

    def written(self, name: ModelName, model: Model) -> tuple[bytes, tuple[bytes, ...]]:
        """The manifest of a new model, and its texts, for `put`. Raises `Unsupported` if no format can hold it."""
        complaints = []
        preferred = () if _only_in_ollamas(model) else self._preferred
        for form in sorted(self._formats, key=lambda form: form.name not in preferred):
            try:
                return form.write(name, model)
            except Unsupported as error:
                complaints.append(f"{form.name}: {error.message}")
        raise Unsupported(f"no manifest can hold '{name}': {'; '.join(complaints)}")

    async def _store_text(self, data: bytes) -> None:
        # Without a digest, no other writer of the same text can be in the way.
        writer = await self._blobs.begin(None, len(data))
        try:
            await writer.write(0, data)
            await writer.commit()
        finally:
            await writer.close()


def _only_in_ollamas(model: Model) -> bool:
    return bool(model.renderer or model.parser or model.requires or model.base_name or model.capabilities)
