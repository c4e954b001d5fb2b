"""The models of a store: find, list, describe, copy, delete, import, pull and push them."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

from corral.core.catalog.checkpoints import CheckpointConverter
from corral.core.catalog.creating import ModelCreator
from corral.core.catalog.deletion import delete_model
from corral.core.catalog.importing import ModelImporter
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.lookup import ModelLookup, model_not_found
from corral.core.catalog.model_files import displayed_files, loadable_files
from corral.core.catalog.new_weights import WeightsMaker
from corral.core.catalog.publishing import ManifestPublisher
from corral.core.catalog.quantizing import Quantizer
from corral.core.catalog.registries import Registries
from corral.core.catalog.transfer_policy import USUAL_POLICY, TransferPolicy
from corral.core.catalog.transfers import ModelTransfers
from corral.core.catalog.uploads import BlobUploads
from corral.core.catalog.upstreams import find_upstream
from corral.core.errors import BlobNotFound, CorralError
from corral.core.lru import LruDict
from corral.core.models.capabilities import derive_capabilities
from corral.core.models.digests import Digest
from corral.core.models.manifest_or_weights import completed, described_by_manifest, shown_template
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.models.view import ModelView
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestFormat, ManifestStore
from corral.core.ports.metadata import MetadataCache, MetadataReader
from corral.core.ports.registries import Registry
from corral.core.ports.sources import ModelSource, OnProgress, ignore_progress
from corral.core.ports.upstreams import UpstreamDirectory
from corral.core.specs.converters import refuse_derived
from corral.core.specs.engines import LocalFile

__all__ = ("ModelCatalog",)

_REMEMBERED_VIEWS = 256  # a header's key-values are some kilobytes


class ModelCatalog:
    """Everything that can be done with stored models. For one event loop; safe with other processes on the same store.

    `formats` are tried in this order, for reading and writing. `cache` keeps the metadata from headers between runs.
    `default_registry` is the scheme of the registry that reads references without one. The caller closes stores,
    sources and registries. `left_out` has a sentence for each plugin that was not loaded, for errors about what is
    missing. `prune` is as for `ManifestPublisher`. `uploads` takes the files of models that `creator` then creates.
    """

    def __init__(
        self,
        *,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        formats: Sequence[ManifestFormat],
        readers: Sequence[MetadataReader],
        sources: Sequence[ModelSource] = (),
        registries: Sequence[Registry] = (),
        default_registry: str | None = None,
        cache: MetadataCache | None = None,
        upstreams: UpstreamDirectory | None = None,
        left_out: Mapping[str, str] = {},
        go_template: bool | None = None,
        policy: TransferPolicy = USUAL_POLICY,
        preferred_formats: Sequence[str] = (),
        prune: bool = True,
        quantizer: Quantizer | None = None,
        checkpoints: CheckpointConverter | None = None,
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._lookup = ModelLookup(manifests=manifests, blobs=blobs, formats=formats)
        self._inspector = WeightsInspector(blobs=blobs, readers=readers, cache=cache)
        self._publisher = ManifestPublisher(
            manifests=manifests, blobs=blobs, local=local, formats=formats, preferred=preferred_formats, prune=prune
        )
        self.uploads = BlobUploads(manifests=manifests, blobs=blobs)
        weights = WeightsMaker(quantizer=quantizer, checkpoints=checkpoints, inspector=self._inspector, local=local)
        self.importer = ModelImporter(
            publisher=self._publisher,
            manifests=manifests,
            blobs=blobs,
            local=local,
            inspector=self._inspector,
            weights=weights,
            left_out=left_out,
        )
        self._transfers = ModelTransfers(
            lookup=self._lookup,
            publisher=self._publisher,
            inspector=self._inspector,
            manifests=manifests,
            blobs=blobs,
            formats=formats,
            sources=sources,
            registries=Registries(registries, default_registry),
            left_out=left_out,
            policy=policy,
            importer=self.importer,
            local=local,
        )
        self.creator = ModelCreator(
            publisher=self._publisher,
            puller=self._transfers.puller,
            lookup=self._lookup,
            manifests=manifests,
            blobs=blobs,
            local=local,
            formats=formats,
            inspector=self._inspector,
            weights=weights,
        )
        self._upstreams = upstreams
        self._go_template = go_template
        self._views: LruDict[Digest, tuple[ModelMetadata | None, tuple[str, ...]]] = LruDict(_REMEMBERED_VIEWS)

    async def get(self, name: ModelName) -> StoredModel:
        """The model, under the spelling that the store has. Raises `ModelNotFound`, `StorageError`."""
        return await self._lookup.get(name)

    async def view(self, name: ModelName) -> ModelView:
        """The model with what is known about it, for answering a request. Raises as `get` and `metadata`.

        Weights whose header is known are not checked again: `loadable_files` notices if they are gone.
        """
        record = await self.get(name)
        known = self._views.get(record.digest)  # without the record, whose texts may be long
        if known is None:
            metadata = await self.metadata(record)
            projector = await self._projector_metadata(record)
            known = metadata, derive_capabilities(record, metadata, projector, self._go_template)
            if projector or not record.files_of("projector"):
                self._views.put(record.digest, known)
        return ModelView(record=record, metadata=known[0], capabilities=known[1])

    async def list(self, *, derived: bool = False) -> builtins.list[StoredModel]:
        """Every readable model, newest first; one that cannot be read is logged once and skipped.

        `derived` includes those that were converted from another model for an engine.
        """
        return await self._lookup.list(derived=derived)

    async def metadata(self, record: Model) -> ModelMetadata | None:
        """What the header of the weights says; None if there are no weights, or no reader knows their format.

        Raises `InvalidModelFile`, and `BlobNotFound` for weights that are gone or have changed since their import.
        """
        return await self._inspector.metadata(record.weights.digest) if record.weights else None

    async def readable_metadata(self, record: StoredModel) -> ModelMetadata | None:
        """As `metadata`, but None if the weights cannot be read, which is logged once."""
        try:
            return await self.metadata(record)
        except CorralError as error:
            self._lookup.complain(record.digest, f"the weights of {record.name} cannot be read", error)
            return None

    async def describe(self, record: Model, *, verbose: bool) -> dict[str, object]:
        """``model_info`` of ``/api/show``: the header's key-values; arrays are None unless `verbose`.

        If no reader knows the format, it is what the manifest says, under GGUF's names. Raises as `metadata`.
        """
        found = await self._inspector.describe(record.weights.digest, verbose=verbose) if record.weights else {}
        return found or described_by_manifest(record)

    async def describe_projector(self, record: Model, *, verbose: bool) -> dict[str, object]:
        """``projector_info`` of ``/api/show``, as `describe`; empty for a model without a projector."""
        projectors = record.files_of("projector")
        return await self._inspector.describe(projectors[0].digest, verbose=verbose) or {} if projectors else {}

    async def tensors(self, record: Model) -> builtins.list[tuple[str, str, tuple[int, ...]]]:
        """Name, type and shape of each tensor, in file order. Raises as `metadata`."""
        return await self._inspector.tensors(record.weights.digest) if record.weights else []

    async def capabilities(self, record: StoredModel) -> tuple[str, ...]:
        """What the model can do, in Ollama's words. Weights that cannot be read are ignored."""
        metadata = await self.readable_metadata(record)
        projector = None if metadata is None else await self._projector_metadata(record)
        return derive_capabilities(record, metadata, projector, self._go_template)

    def template(self, record: Model, metadata: ModelMetadata | None) -> str:
        """The chat template that the model uses; empty if it has none."""
        return shown_template(record, metadata, self._go_template)

    async def copy(self, source: ModelName, destination: ModelName) -> None:
        """Gives the manifest another name. A name that is taken is replaced, and what only its model had is deleted.

        Raises `ModelNotFound`, and `InvalidRequest` for a name that is reserved for derived models.
        """
        refuse_derived(destination)
        await self._publisher.copy(source, destination)

    async def delete(self, name: ModelName) -> StoredModel | None:
        """Deletes the manifest, the models derived from it alone, and blobs that no manifest names any more.

        Returns the deleted model; None if it could not be read, in which case it is still deleted. Raises
        `ModelNotFound`.
        """
        record = None
        with suppress(Exception):  # whatever a plugin's format raises: also a model that it cannot read is deleted
            record = await self.get(name)
        async with self._manifests.guard(exclusive=True):
            if not await delete_model(name, manifests=self._manifests, blobs=self._blobs, local=self._local):
                raise model_not_found(name)
        return record

    async def import_file(
        self, path: Path, name: ModelName | None = None, on_progress: OnProgress = ignore_progress, quantize: str = ""
    ) -> StoredModel:
        """Imports a weights file, or the folder of a model, of this machine. The original files are left untouched.

        A name that is taken is replaced; without one, the model is named after its file or folder. A checkpoint is
        converted, and quantized to `quantize`. Raises `NotFound`, `InvalidModelFile`, `OutOfSpace`, and so on.
        """
        if name is not None:
            refuse_derived(name)
        return await self.importer.import_file(path, name, on_progress, quantize)

    async def pull(
        self,
        reference: str,
        name: ModelName | None = None,
        on_progress: OnProgress = ignore_progress,
        *,
        insecure: bool = False,
        local_files: bool = False,
    ) -> StoredModel:
        """Fetches a reference, as `ModelPuller.pull`. A name that is taken is replaced."""
        puller = self._transfers.puller
        return await puller.pull(reference, name, on_progress, insecure=insecure, local_files=local_files)

    async def push(
        self,
        name: ModelName,
        reference: str = "",
        on_progress: OnProgress = ignore_progress,
        *,
        manifest_format: str | None = None,
        insecure: bool = False,
    ) -> Digest:
        """Publishes a model under a reference, by default its name; the rest as `ModelPusher.push`."""
        return await self._transfers.pusher.push(
            name, reference or name.short, on_progress, manifest_format=manifest_format, insecure=insecure
        )

    async def publish(self, name: ModelName, model: Model) -> StoredModel:
        """Creates a model from blobs that are already in the store. A name that is taken is replaced.

        What the model leaves empty (format, family, lengths, …) is taken from the header of its weights. Raises
        `Conflict` if a blob is gone, `Unsupported` if no manifest can hold the model, and `InvalidModelFile`.
        """
        with suppress(BlobNotFound):  # the publisher raises `Conflict` for it
            model = completed(model, await self.metadata(model))
        return await self._publisher.publish(name, model)

    async def add_upstream(
        self,
        name: ModelName,
        hosts: Sequence[str],
        *,
        model: str | None = None,
        api: str | None = None,
        capabilities: Sequence[str] = (),
    ) -> StoredModel:
        """Adds a model that runs on the servers at these addresses. A name that is taken is replaced.

        The first server is asked for `model`, or for its only one, and the others for the same model. With `api` None,
        the API is detected. Raises `InvalidRequest`, and as `UpstreamDirectory.find`.
        """
        refuse_derived(name)
        found = await find_upstream(self._upstreams, hosts, model=model, api=api, capabilities=capabilities)
        return await self.publish(name, found)

    def local_files(self, record: StoredModel) -> tuple[LocalFile, ...]:
        """As `loadable_files`, but where the blobs are, whether or not they exist: for display."""
        return displayed_files(record, self._local)

    def loadable_files(self, record: StoredModel) -> AbstractAsyncContextManager[tuple[LocalFile, ...]]:
        """The files an engine loads, weights first; they stay while the context lasts, even if the model is deleted.

        Those that have paths are in one folder under them. A projector that no reader accepts is left out. Raises
        `StorageError`, `BlobNotFound` if a file is missing or has changed since it was imported, and `InvalidModelFile`
        for one whose header a reader refuses: no native code may see it.
        """
        return loadable_files(record, self._local, self._inspector)

    async def _projector_metadata(self, record: StoredModel) -> ModelMetadata | None:
        """None if the model has no projector, or one that cannot be read."""
        with suppress(CorralError):
            for projector in record.files_of("projector")[:1]:
                return await self._inspector.metadata(projector.digest)
        return None
