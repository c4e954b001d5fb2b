"""Pulls a reference from the source or registry of its scheme, or else from the configured registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.core.catalog.fetching import BlobFetcher
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.publishing import ManifestPublisher
from corral.core.catalog.registries import Registries
from corral.core.catalog.registry_pulls import RegistryPuller
from corral.core.catalog.source_pulls import SourcePuller
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.errors import InvalidRequest
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestFormat, ManifestStore
from corral.core.ports.sources import ModelSource, OnProgress
from corral.core.specs.converters import refuse_derived
from corral.core.wording.left_out import remarks

__all__ = ("ModelPuller",)


class ModelPuller:
    """`left_out` has a sentence for each plugin that is not loaded."""

    def __init__(
        self,
        *,
        publisher: ManifestPublisher,
        manifests: ManifestStore,
        blobs: BlobStore,
        formats: Sequence[ManifestFormat],
        inspector: WeightsInspector,
        sources: Sequence[ModelSource],
        registries: Registries,
        left_out: Mapping[str, str],
        policy: TransferPolicy,
    ) -> None:
        fetcher = BlobFetcher(blobs, policy)
        self._from_source = SourcePuller(
            publisher=publisher,
            manifests=manifests,
            blobs=blobs,
            inspector=inspector,
            fetcher=fetcher,
            left_out=left_out,
        )
        self._from_registry = RegistryPuller(publisher=publisher, blobs=blobs, formats=formats, fetcher=fetcher)
        self._sources = {source.scheme: source for source in sources}
        self._registries = registries
        self._left_out = left_out

    async def pull(
        self, reference: str, name: ModelName | None, on_progress: OnProgress, *, insecure: bool = False
    ) -> StoredModel:
        """Raises `InvalidRequest` if nothing reads the reference, and what the source or the registry raises."""
        if name is not None:
            refuse_derived(name)
        scheme, separator, _ = reference.partition("://")
        if separator and scheme in self._sources:
            return await self._from_source.pull(self._sources[scheme], reference, name, on_progress)
        found = self._registries.find(reference, insecure=insecure)
        if found is None:
            raise self._unknown(reference, scheme)
        return await self._from_registry.pull(*found, name, on_progress)

    def _unknown(self, reference: str, scheme: str) -> InvalidRequest:
        known = ", ".join(f"{scheme}://" for scheme in sorted({*self._sources, *self._registries.schemes}))
        return InvalidRequest(
            f"no source for {reference[:100]!r}",
            "; ".join(
                (
                    f"references start with one of: {known or '(none)'}",
                    "to import a local file, use corral import",
                    *remarks(self._left_out, scheme),
                )
            ),
        )
