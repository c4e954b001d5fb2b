"""Pulls models from registries: the manifest is stored byte for byte, its blobs are fetched concurrently."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

from corral.core.catalog.fetching import fetch_blob, side_by_side
from corral.core.catalog.manifest_reading import blobs_of, read_model
from corral.core.catalog.publishing import ManifestPublisher, Published, until_published
from corral.core.errors import DigestMismatch
from corral.core.models.digests import Digest, digest_of, mentioned_digests, short_digest
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.models.references import Reference, name_from_reference
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestBlob, ManifestFormat, StoredManifest
from corral.core.ports.registries import Registry
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.core.specs.converters import refuse_derived

__all__ = ("RegistryPuller",)

Fetch = Callable[[Digest, int, int | None], AsyncGenerator[bytes, None]]
"""`Registry.fetch` for one reference."""


class RegistryPuller:
    """A model becomes visible when all of its blobs have arrived."""

    def __init__(self, *, publisher: ManifestPublisher, blobs: BlobStore, formats: Sequence[ManifestFormat]) -> None:
        self._publisher = publisher
        self._blobs = blobs
        self._formats = tuple(formats)

    async def pull(
        self, registry: Registry, reference: Reference, name: ModelName | None, on_progress: OnProgress
    ) -> StoredModel:
        """Without `name`, the model gets the reference's own. Blobs that arrived shorten the next attempt.

        Raises what `Registry` raises, `DigestMismatch`, `OutOfSpace`, and `StorageError` for a manifest that no format
        can read.
        """
        name = name or name_from_reference(reference)
        refuse_derived(name)
        on_progress(FetchProgress(status="pulling manifest"))
        manifest = (await registry.manifest(reference)).data
        found = digest_of(manifest)
        if reference.digest not in (None, found):
            raise DigestMismatch(f'digest mismatch of {reference}, expected "{reference.digest}", got "{found}"')
        published = await self._fetch_and_put(partial(registry.fetch, reference), name, manifest, on_progress)
        if _leaves_unused(published.stored):
            on_progress(FetchProgress(status="removing unused layers"))
        await self._publisher.delete_replaced(published)
        on_progress(FetchProgress(status="success"))
        return published.record

    async def _fetch_and_put(
        self, fetch: Fetch, name: ModelName, manifest: bytes, on_progress: OnProgress
    ) -> Published:
        blobs = {blob.digest: blob for blob in blobs_of(name, manifest, self._formats)}.values()
        texts = [blob for blob in blobs if blob.is_text]
        files = [blob for blob in blobs if not blob.is_text]

        async def attempt() -> Published:
            # A manifest that cannot be read is refused before its weights are fetched.
            await side_by_side([partial(self._fetch, fetch, blob, on_progress) for blob in texts])
            await read_model(name, manifest, self._formats, self._blobs)
            await side_by_side([partial(self._fetch, fetch, blob, on_progress) for blob in files])
            on_progress(FetchProgress(status="verifying sha256 digest"))
            on_progress(FetchProgress(status="writing manifest"))
            return await self._publisher.put(name, manifest)

        return await until_published(attempt)

    async def _fetch(self, fetch: Fetch, blob: ManifestBlob, on_progress: OnProgress) -> None:
        status = f"pulling {short_digest(blob.digest)}"
        if await self._blobs.stat(blob.digest) is None:
            stream = partial(fetch, blob.digest)
            await fetch_blob(
                self._blobs,
                stream,
                digest=blob.digest,
                size_bytes=blob.size_bytes,
                status=status,
                on_progress=on_progress,
            )
        else:
            on_progress(
                FetchProgress(
                    status=status,
                    digest=blob.digest,
                    total_bytes=blob.size_bytes,
                    completed_bytes=blob.size_bytes,
                )
            )


def _leaves_unused(put: StoredManifest) -> bool:
    """Whether the manifest that was replaced names blobs that the new one does not."""
    return put.replaced is not None and not mentioned_digests(put.replaced) <= mentioned_digests(put.data)
