"""Pulls and pushes models: what moves between this store and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.core.catalog.importing import ModelImporter
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.lookup import ModelLookup
from corral.core.catalog.publishing import ManifestPublisher
from corral.core.catalog.pulling import ModelPuller
from corral.core.catalog.pushing import ModelPusher
from corral.core.catalog.registries import Registries
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestFormat, ManifestStore
from corral.core.ports.sources import ModelSource

__all__ = ("ModelTransfers",)


class ModelTransfers:
    """`puller` and `pusher`. `left_out` has a sentence for each plugin that is not loaded."""

    def __init__(
        self,
        *,
        lookup: ModelLookup,
        publisher: ManifestPublisher,
        inspector: WeightsInspector,
        manifests: ManifestStore,
        blobs: BlobStore,
        formats: Sequence[ManifestFormat],
        sources: Sequence[ModelSource],
        registries: Registries,
        left_out: Mapping[str, str],
        policy: TransferPolicy,
        importer: ModelImporter,
        local: LocalBlobs,
    ) -> None:
        self.puller = ModelPuller(
            publisher=publisher,
            manifests=manifests,
            blobs=blobs,
            formats=formats,
            inspector=inspector,
            sources=sources,
            registries=registries,
            left_out=left_out,
            policy=policy,
            importer=importer,
            local=local,
            lookup=lookup,
        )
        self.pusher = ModelPusher(
            lookup=lookup, inspector=inspector, blobs=blobs, formats=formats, registries=registries, policy=policy
        )
