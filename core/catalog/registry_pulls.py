"""Pulls models from registries: the manifest is stored byte for byte, its blobs are fetched concurrently."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from corral.core.catalog.fetching import BlobFetcher, BlobOrigin
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.joined_models import joined_before
from corral.core.catalog.joining import PartJoiner
from corral.core.catalog.lookup import ModelLookup
from corral.core.catalog.manifest_reading import blobs_of, read_model
from corral.core.catalog.part_groups import PartFile
from corral.core.catalog.publishing import ManifestPublisher, Published, until_published
from corral.core.catalog.side_by_side import side_by_side
from corral.core.catalog.unused_blobs import discard_blobs
from corral.core.errors import DigestMismatch
from corral.core.models.digests import Digest, digest_of, mentioned_digests, short_digest
from corral.core.models.manifest_or_weights import completed
from corral.core.models.model import Model, ModelFile, StoredModel
from corral.core.models.names import ModelName
from corral.core.models.references import Reference
from corral.core.ports.blobs import BlobInfo, BlobStore
from corral.core.ports.manifests import ManifestBlob, ManifestFormat, ManifestStore, StoredManifest
from corral.core.ports.registries import Registry
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("RegistryPuller",)

_OTHERS = ("projector", "adapter", "draft")


class RegistryPuller:
    """A model becomes visible when all of its blobs have arrived.

    One whose weights come in parts gets a manifest of its own, with the weights in one file.
    """

    def __init__(
        self,
        *,
        publisher: ManifestPublisher,
        blobs: BlobStore,
        formats: Sequence[ManifestFormat],
        fetcher: BlobFetcher,
        manifests: ManifestStore,
        inspector: WeightsInspector,
        lookup: ModelLookup,
    ) -> None:
        self._manifests = manifests
        self._inspector = inspector
        self._lookup = lookup
        self._joiner = PartJoiner(blobs=blobs, inspector=inspector)
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
        await discard_blobs(published.record.joined_from, manifests=self._manifests, blobs=self._blobs)
        on_progress(FetchProgress(status="success"))
        return published.record

    async def _fetch_and_put(
        self, registry: Registry, reference: Reference, name: ModelName, manifest: bytes, on_progress: OnProgress
    ) -> Published:
        blobs = {blob.digest: blob for blob in blobs_of(name, manifest, self._formats)}.values()
        texts = [blob for blob in blobs if blob.is_text]
        made: list[Digest] = []

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
            model, _ = await read_model(name, manifest, self._formats, self._blobs)
            split = _parts_among(model)
            joined = await joined_before(self._lookup, self._blobs, [file.digest for file in split])
            unneeded = {file.digest for file in split} if joined is not None else set()
            await side_by_side(
                [partial(fetch, blob) for blob in blobs if not blob.is_text and blob.digest not in unneeded]
            )
            on_progress(FetchProgress(status="verifying sha256 digest"))
            whole = await self._joined(model, split, joined, made, on_progress) if split else None
            on_progress(FetchProgress(status="writing manifest"))
            return await (
                self._publisher.put(name, manifest) if whole is None else self._publisher.put_model(name, whole)
            )

        try:
            return await until_published(attempt)
        except BaseException:
            await discard_blobs(made, manifests=self._manifests, blobs=self._blobs)
            raise

    async def _joined(
        self,
        model: Model,
        split: Sequence[ModelFile],
        blob: BlobInfo | None,
        made: list[Digest],
        on_progress: OnProgress,
    ) -> Model | None:
        """The model with its weights in one file; None if they are not parts of one."""
        if blob is None:
            named = [PartFile(name=file.path or file.digest, place=file.digest) for file in split]
            groups = await self._joiner.groups(named, named=False)
            if not groups:
                return None

            def report(done: int, total: int) -> None:
                on_progress(FetchProgress(status="joining the weights", total_bytes=total, completed_bytes=done))

            blob = await self._joiner.join(groups[0], report)
            made.append(blob.digest)
        weights = ModelFile(role="weights", media_type="", digest=blob.digest, size_bytes=blob.size_bytes)
        others = [msgspec.structs.replace(file, media_type="") for file in model.files if file.role in _OTHERS]
        whole = msgspec.structs.replace(
            model, files=(weights, *others), joined_from=tuple(file.digest for file in split)
        )
        return completed(whole, await self._inspector.metadata(blob.digest))


def _parts_among(model: Model) -> tuple[ModelFile, ...]:
    """The weights, if they may be parts of one file: several, of a format whose weights are one file otherwise."""
    weights = model.files_of("weights")
    return weights if len(weights) > 1 and model.format == "gguf" else ()


def _leaves_unused(put: StoredManifest) -> bool:
    """Whether the manifest that was replaced names blobs that the new one does not."""
    return put.replaced is not None and not mentioned_digests(put.replaced) <= mentioned_digests(put.data)
