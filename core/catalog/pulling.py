"""Decides who serves a reference: this machine, the source or registry of its scheme, or the configured registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.core.catalog.fetching import BlobFetcher
from corral.core.catalog.importing import ModelImporter
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.lookup import ModelLookup
from corral.core.catalog.publishing import ManifestPublisher
from corral.core.catalog.registries import Registries
from corral.core.catalog.registry_pulls import RegistryPuller
from corral.core.catalog.source_pulls import SourcePuller
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.errors import InvalidRequest, NotFound, SourceError
from corral.core.models.file_addresses import FILE_SCHEME, path_of_address
from corral.core.models.model import StoredModel
from corral.core.models.names import DEFAULT_TAG, ModelName
from corral.core.models.references import Reference, is_on_hugging_face, name_from_reference
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestFormat, ManifestStore
from corral.core.ports.registries import Registry
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
        importer: ModelImporter,
        local: LocalBlobs,
        lookup: ModelLookup,
    ) -> None:
        fetcher = BlobFetcher(blobs, policy)
        self._from_source = SourcePuller(
            publisher=publisher,
            manifests=manifests,
            blobs=blobs,
            local=local,
            inspector=inspector,
            fetcher=fetcher,
            weights=importer.weights,
            lookup=lookup,
            left_out=left_out,
        )
        self._from_registry = RegistryPuller(
            publisher=publisher,
            blobs=blobs,
            formats=formats,
            fetcher=fetcher,
            manifests=manifests,
            inspector=inspector,
            lookup=lookup,
        )
        self._sources = {source.scheme: source for source in sources}
        self._registries = registries
        self._importer = importer
        self._left_out = left_out

    async def pull(
        self,
        reference: str,
        name: ModelName | None,
        on_progress: OnProgress,
        *,
        insecure: bool = False,
        local_files: bool = False,
    ) -> StoredModel:
        """A source's files are stored as by an import, a registry's manifest as it is.

        With `local_files`, ``file://`` names files of this machine: never for references that others send.
        Where a scheme has a registry and a source, the source has the models without a manifest. `insecure`: the
        registry is reached without TLS. Raises `InvalidRequest` if nothing reads the reference, and what the source or
        the registry raises: `SourceError`, `InvalidModelFile`, `StorageError`.
        """
        if name is not None:
            refuse_derived(name)
        scheme, separator, _ = reference.partition("://")
        if separator and scheme == FILE_SCHEME:
            if not local_files:
                raise InvalidRequest("file:// names no file of the server's", "corral import PATH, on its machine")
            return await self._importer.import_file(path_of_address(reference), name, on_progress)
        source = self._sources.get(scheme) if separator else None
        try:
            found = self._registries.find(reference, insecure=insecure)
        except InvalidRequest:  # sources have references of their own
            if source is None:
                raise
            found = None
        if found is not None:
            return await self._from_either(*found, name, on_progress)
        if source is not None:
            return await self._from_source.pull(source, reference, name, on_progress)
        raise self._unknown(reference, scheme)

    async def _from_either(
        self, registry: Registry, reference: Reference, name: ModelName | None, on_progress: OnProgress
    ) -> StoredModel:
        """From the registry, or else from the source with the files behind it."""
        name = name or name_from_reference(reference)
        refuse_derived(name)
        try:
            manifest = await self._from_registry.manifest(registry, reference, on_progress)
        except (NotFound, SourceError):
            source = self._sources.get("hf") if is_on_hugging_face(reference) else None
            if source is None or reference.digest is not None:
                raise
            tag = "" if reference.tag == DEFAULT_TAG else f":{reference.tag}"
            return await self._from_source.pull(source, f"hf://{reference.path}{tag}", name, on_progress)
        return await self._from_registry.pull(registry, reference, name, manifest, on_progress)

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
