"""Creates models from other models and from files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from corral.core.catalog.checkpoints import given_checkpoint, is_checkpoint
from corral.core.catalog.create_calls import CreateCall, GivenFiles
from corral.core.catalog.given_files import GivenFileReader, check_paths, model_files
from corral.core.catalog.info_overrides import with_info
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.lookup import ModelLookup
from corral.core.catalog.manifest_reading import blobs_of
from corral.core.catalog.new_models import Part, file_model, file_role
from corral.core.catalog.new_texts import with_texts
from corral.core.catalog.new_weights import WeightsMaker
from corral.core.catalog.publishing import ManifestPublisher, Published, until_published
from corral.core.catalog.pulling import ModelPuller
from corral.core.catalog.unused_blobs import discard_blobs
from corral.core.errors import BlobNotFound, InvalidRequest, ModelNotFound, SourceUnavailable
from corral.core.models.file_addresses import is_web_file
from corral.core.models.known_templates import template_family
from corral.core.models.manifest_or_weights import completed
from corral.core.models.model import Model, ModelFile, RemoteModel, StoredModel
from corral.core.models.names import parse_name
from corral.core.models.remote_addresses import remote_address
from corral.core.models.split_names import is_split_name
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestFormat, ManifestStore
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.core.specs.converters import refuse_derived
from corral.core.wording.clipping import clipped

__all__ = ("ModelCreator",)

_REMOTE_CAPABILITIES = ("completion",)
_LOADED = ("weights", "projector", "adapter", "draft")


class ModelCreator:
    """Reports Ollama's events. What only a model had that is replaced is deleted."""

    def __init__(
        self,
        *,
        publisher: ManifestPublisher,
        puller: ModelPuller,
        lookup: ModelLookup,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        formats: Sequence[ManifestFormat],
        inspector: WeightsInspector,
        weights: WeightsMaker,
    ) -> None:
        self._publisher = publisher
        self._puller = puller
        self._lookup = lookup
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._formats = tuple(formats)
        self._inspector = inspector
        self._weights = weights

    async def create(self, call: CreateCall, on_progress: OnProgress) -> StoredModel:
        """The new model. A name that is taken is replaced.

        Raises `InvalidRequest`, `InvalidName`, `Unsupported` for what has to be converted first, `InvalidModelFile`,
        `BlobNotFound` for a blob that was not uploaded, and what `ModelCatalog.pull` raises if the store does not have
        the model that it is created from.
        """
        refuse_derived(call.name)
        given = (call.files, *(adapter.files for adapter in call.adapters), call.draft_files)
        for files in given:
            check_paths(files)
        if call.draft_quantize and not call.draft_files:
            raise InvalidRequest("--draft-quantize requires a DRAFT model")
        with_info(with_texts(Model(), call), call.info)  # what is wrong with them is said before anything is done
        reader = GivenFileReader(blobs=self._blobs, local=self._local, inspector=self._inspector)
        try:
            published = await until_published(partial(self._attempt, call, reader, on_progress))
        except BaseException:
            await discard_blobs([*reader.adopted, *reader.made], manifests=self._manifests, blobs=self._blobs)
            raise
        for files in given:
            for file in (files or {}).values():
                if not isinstance(file, Path):
                    await self._blobs.release(file)  # it goes with the model from now on
        for files in given:
            if is_checkpoint(files or {}) or any(map(is_split_name, files or {})):  # only needed for the result
                uploaded = [file for file in (files or {}).values() if not isinstance(file, Path)]
                await discard_blobs(uploaded, manifests=self._manifests, blobs=self._blobs)
        await self._publisher.delete_replaced(published)
        needed = {file.digest for file in published.record.files}
        unneeded = [digest for digest in (*reader.adopted, *reader.made) if digest not in needed]
        await discard_blobs(unneeded, manifests=self._manifests, blobs=self._blobs)
        on_progress(FetchProgress(status="success"))
        return published.record

    async def _attempt(self, call: CreateCall, reader: GivenFileReader, on_progress: OnProgress) -> Published:
        model, family = await self._source(call, reader, on_progress)
        model = with_info(with_texts(model, call), call.info)
        manifest, texts = self._publisher.written(call.name, model)
        _, *layers = blobs_of(call.name, manifest, self._formats)  # without the config
        for layer in layers:
            if layer.is_text and family is not None:
                on_progress(FetchProgress(status=f"using autodetected template {family}"))
                family = None
            is_new = await self._blobs.stat(layer.digest) is None or layer.digest in reader.made
            on_progress(FetchProgress(status=f"{'creating new' if is_new else 'using existing'} layer {layer.digest}"))
        if family is not None:
            on_progress(FetchProgress(status=f"using autodetected template {family}"))
        on_progress(FetchProgress(status="writing manifest"))
        return await self._publisher.put(call.name, manifest, texts)

    async def _source(
        self, call: CreateCall, reader: GivenFileReader, on_progress: OnProgress
    ) -> tuple[Model, str | None]:
        """The model without what the call says about it, and the family of its template if it comes from a file."""
        if call.base and call.remote_host:
            _refuse_weights(call)
            remote = RemoteModel(host=remote_address(call.remote_host), model=call.base)
            is_bare = not call.info.get("capabilities")
            return Model(remote=remote, capabilities=_REMOTE_CAPABILITIES if is_bare else ()), None
        family = None
        if call.base:
            model = await self._base(call, reader, on_progress)
            if call.files:
                model = _with_files(model, _additions(await reader.parts(call.files, on_progress)))
        elif call.files is not None:
            model, family = await self._from_files(call, reader, on_progress)
        else:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        for adapter in call.adapters:
            model = _with_files(model, [await self._weights.adapters.made(call, model, adapter, reader, on_progress)])
        if call.draft_files:
            model = _with_files(model, await self._draft(call, call.draft_files, reader, on_progress))
        return model, family

    async def _draft(
        self, call: CreateCall, files: GivenFiles, reader: GivenFileReader, on_progress: OnProgress
    ) -> tuple[ModelFile, ...]:
        parts = await reader.parts(files, on_progress)
        if not call.draft_quantize:
            return model_files(parts, "draft")
        if len(parts) != 1:
            raise InvalidRequest(f"a draft model that is quantized needs exactly one file, but this has {len(parts)}")
        asked = msgspec.structs.replace(call, quantize=call.draft_quantize)
        draft = await self._weights.quantized(
            file_model(parts, parts[0]), asked, parts[0].metadata, reader, on_progress
        )
        return tuple(msgspec.structs.replace(file, role="draft") for file in draft.files)

    async def _base(self, call: CreateCall, reader: GivenFileReader, on_progress: OnProgress) -> Model:
        record = await self._stored_base(call.base, on_progress)
        metadata = None
        if record.weights is not None:
            try:
                metadata = await self._inspector.metadata(record.weights.digest)
            except BlobNotFound as error:
                raise BlobNotFound(f"'{record.name}': {error.message}", error.remedy) from error
        # Without the layers' kinds, any format can hold the files, whatever the manifest of the base was.
        files = tuple(
            msgspec.structs.replace(file, media_type="") if file.role in _LOADED and file.path is None else file
            for file in record.files
        )
        model = msgspec.structs.replace(completed(record.content(), metadata), files=files)
        return await self._weights.quantized(model, call, metadata, reader, on_progress)

    async def _stored_base(self, base: str, on_progress: OnProgress) -> StoredModel:
        def report(progress: FetchProgress) -> None:
            if progress.status != "success":
                on_progress(progress)

        scheme, separator, _ = base.partition("://")
        if not separator or (scheme in ("http", "https") and not is_web_file(base)):
            try:
                return await self._lookup.get(parse_name(base))
            except ModelNotFound:
                pass
        try:
            return await self._puller.pull(base, None, report)
        except SourceUnavailable as error:  # a mistyped name is as likely as a network that fails
            raise SourceUnavailable(
                f"{clipped(base, 100)} is not in the store, and it cannot be pulled: {error.message}", error.remedy
            ) from error

    async def _from_files(
        self, call: CreateCall, reader: GivenFileReader, on_progress: OnProgress
    ) -> tuple[Model, str | None]:
        if is_checkpoint(call.files or {}):
            checkpoint, others = given_checkpoint(call.files or {})
            model, metadata = await self._weights.converted(call, checkpoint, reader, on_progress)
            if others:
                model = _with_files(model, _additions(await reader.parts(others, on_progress)))
            return model, template_family(metadata.chat_template) if metadata.chat_template else None
        parts = await reader.parts(call.files or {}, on_progress)
        weights = [part for part in parts if file_role(part.metadata) == "weights"]
        if len(weights) != 1:
            found = ", ".join(f"{part.file_name} ({file_role(part.metadata)})" for part in parts)
            raise InvalidRequest(f"a model needs exactly one file of weights, but this has {len(weights)}: {found}")
        metadata = weights[0].metadata
        model = await self._weights.quantized(file_model(parts, weights[0]), call, metadata, reader, on_progress)
        if model.quantization == metadata.file_type:
            on_progress(FetchProgress(status="verifying conversion"))
        return model, template_family(metadata.chat_template) if metadata.chat_template else None


def _refuse_weights(call: CreateCall) -> None:
    """What a model that runs elsewhere cannot have."""
    if call.draft_files:
        raise InvalidRequest("DRAFT cannot be used with remote models")
    given = {"files": call.files, "adapters": call.adapters, "quantize": call.quantize}
    for field, value in given.items():
        if value:
            raise InvalidRequest(f"{field} cannot be used with remote models", "its weights are on the other server")


def _with_files(model: Model, files: Sequence[ModelFile]) -> Model:
    return msgspec.structs.replace(model, files=(*model.files, *files))


def _additions(parts: Sequence[Part]) -> tuple[ModelFile, ...]:
    """The files beside the model that is named in `base`, which has its weights already."""
    for part in parts:
        if file_role(part.metadata) == "weights":
            raise InvalidRequest(
                f"{part.file_name} has weights, and so has the model that is named with it: choose one"
            )
    return model_files(parts)
