"""Pulls models from registries: the manifest is stored byte for byte, its blobs are fetched concurrently."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from corral.core.catalog.fetching import BlobFetcher, BlobOrigin
from corral.core.catalog.manifest_reading import blobs_of, read_model
from corral.core.catalog.publishing import ManifestPublisher, Published, until_published
from corral.core.catalog.side_by_side import side_by_side
from corral.core.errors import DigestMismatch
from corral.core.models.digests import digest_of, mentioned_digests, short_digest
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.models.references import Reference
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestBlob, ManifestFormat, StoredManifest
from corral.core.ports.registries import Registry
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("RegistryPuller",)


class RegistryPuller:
    """A model becomes visible when all of its blobs have arrived."""

    def __init__(
        self,
        *,
        publisher: ManifestPublisher,
        blobs: BlobStore,
        formats: Sequence[ManifestFormat],
        fetcher: BlobFetcher,
    ) -> None:
        self._publisher = publisher
        self._fetcher = fetcher
        self._blobs = blobs
        self._formats = tuple(formats)

    async def manifest(self, registry: Registry, reference: Reference, on_progress: OnProgress) -> bytes:
        """The manifest, to `pull` with. Raises what `Registry` raises, `DigestMismatch`."""
        on_progress(FetchProgress(status="pulling manifest"))
        remote = await registry.manifest(reference)
        found = digest_of(remote.data if remote.index is None else remote.index)
        if reference.digest not in (None, found):
            raise DigestMismatch(f'digest mismatch of {reference}, expected "{reference.digest}", got "{found}"')
        return remote.data

    async def pull(
        self, registry: Registry, reference: Reference, name: ModelName, manifest: bytes, on_progress: OnProgress
    ) -> StoredModel:
        """Blobs that arrived shorten the next attempt.

        Raises what `Registry` raises, `DigestMismatch`, `OutOfSpace`, and `StorageError` for a manifest that no format
        can read.
        """
        published = await self._fetch_and_put(registry, reference, name, manifest, on_progress)
        if _leaves_unused(published.stored):
            on_progress(FetchProgress(status="removing unused layers"))
        await self._publisher.delete_replaced(published)
        on_progress(FetchProgress(status="success"))
        return published.record

    async def _fetch_and_put(
        self, registry: Registry, reference: Reference, name: ModelName, manifest: bytes, on_progress: OnProgress
    ) -> Published:
        blobs = {blob.digest: blob for blob in blobs_of(name, manifest, self._formats)}.values()
        texts = [blob for blob in blobs if blob.is_text]
        files = [blob for blob in blobs if not blob.is_text]

        async def fetch(blob: ManifestBlob) -> None:
            origin = BlobOrigin(
                place=(reference.scheme, reference.repository, reference.insecure),  # which may be closed to others
                stream=partial(registry.fetch, reference, blob.digest),
                status=f"pulling {short_digest(blob.digest)}",
            )
            await self._fetcher.fetch(origin, blob.digest, blob.size_bytes, on_progress)

        async def attempt() -> Published:
            # A manifest that cannot be read is refused before its weights are fetched.
            await side_by_side([partial(fetch, blob) for blob in texts])
            await read_model(name, manifest, self._formats, self._blobs)
            await side_by_side([partial(fetch, blob) for blob in files])
            on_progress(FetchProgress(status="verifying sha256 digest"))
            on_progress(FetchProgress(status="writing manifest"))
            return await self._publisher.put(name, manifest)

        return await until_published(attempt)


def _leaves_unused(put: StoredManifest) -> bool:
    """Whether the manifest that was replaced names blobs that the new one does not."""
    return put.replaced is not None and not mentioned_digests(put.replaced) <= mentioned_digests(put.data)
