"""Derives models from other models: finds those that already exist, and converts and keeps the others."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

import msgspec

from corral.core.conversion.converting import Converted, Converting, Trial
from corral.core.conversion.quantizing import QUANTIZER
from corral.core.conversion.results import converted_name, derived_model, require_able, typed_parameters
from corral.core.errors import (
    BlobNotFound,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    StorageError,
    Unsupported,
)
from corral.core.models.digests import Digest
from corral.core.models.model import Model, ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.models.quantization_types import quantization_type
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.loadable_models import LoadableModels
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.converters import ConverterSpec, derived_name, refuse_derived, tuned_name
from corral.core.specs.installation import Installation

__all__ = ("ConvertibleModels", "ModelDeriver")

_log = logging.getLogger(__name__)


class ConvertibleModels(LoadableModels, Protocol):
    """What deriving needs of the `ModelCatalog`."""

    async def get(self, name: ModelName) -> StoredModel: ...

    async def publish(self, name: ModelName, model: Model) -> StoredModel: ...


def _ignore(share: float) -> None:
    pass


def _weights(record: StoredModel) -> ModelFile:
    if record.weights is None:
        raise Unsupported(f"{record.name.short} has no local weights to convert")
    return record.weights


class ModelDeriver:
    """Converts models one at a time, in separate processes. Other processes may use the same store.

    Results are kept under a name made of source, converter and parameters (`derived_name`). `settings` are the default
    parameters by converter.
    """

    def __init__(
        self,
        *,
        models: ConvertibleModels,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        converting: Converting,
        converters: Sequence[ConverterSpec],
        installation: Installation,
        settings: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:
        self.converters = tuple(converters)
        self._models = models
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._converting = converting
        self._installation = installation
        self._settings = settings
        self._turn = asyncio.Lock()

    async def derive(
        self,
        record: StoredModel,
        converter: str,
        *,
        parameters: Mapping[str, Any] = {},
        on_progress: OnLoadProgress = _ignore,
    ) -> StoredModel:
        """The converter's result for the model, converted now unless it already exists. Cancelling leaves nothing
        behind.

        `on_progress` is first called when the work begins; before that, another process may be doing it. Raises
        `Unsupported` if there is no such converter or it cannot convert the model, `EngineNotInstalled` if it lacks its
        packages, `InvalidOption` for a parameter, `OutOfSpace`, `OutOfMemory`, `PluginError` for an invalid result, and
        `JobFailed` or whatever else the conversion raises.
        """
        if record.files_of("adapter"):  # before looking for a result, which the weights alone may have already
            raise Unsupported(f"{record.name.short} has an adapter, which would be lost in a conversion")
        spec, stated = self._stated(converter, parameters)
        name = derived_name(_weights(record).digest, spec, stated)
        found = await self._whole(name)
        if found is not None:
            return found
        metadata = await self._models.metadata(record)
        require_able(spec, record, metadata, self._installation)
        async with self._manifests.claim(name):
            found = await self._whole(name)  # another process made it meanwhile
            if found is not None:
                return found
            async with self._turn:
                return await self._make(name, spec, record, metadata, stated, on_progress)

    async def existing(
        self, record: StoredModel, converter: str, parameters: Mapping[str, Any] = {}
    ) -> StoredModel | None:
        """What `derive` would return without converting anything; None if it would convert."""
        if record.weights is None:
            return None
        spec, stated = self._stated(converter, parameters)
        return await self._whole(derived_name(record.weights.digest, spec, stated))

    @asynccontextmanager
    async def tried(
        self,
        record: StoredModel,
        converter: str,
        *,
        parameters: Mapping[str, Any] = {},
        on_progress: OnLoadProgress = _ignore,
    ) -> AsyncIterator[Trial]:
        """What `derive` would make, outside of the store: it is gone after the context, or when this process is killed,
        unless `keep` takes it. Raises what `derive` does."""
        spec, stated = self._stated(converter, parameters)
        metadata = await self._models.metadata(record)
        require_able(spec, record, metadata, self._installation)
        async with self._local.scratch() as folder:
            async with self._turn, self._models.loadable_files(record) as files:
                weights = [file for file in files if file.role == "weights"]
                result = await self._converting.into(folder, spec, record, metadata, weights, stated, on_progress)
            yield Trial(record=record, metadata=metadata, folder=folder, result=result)

    async def keep(self, trial: Trial, name: ModelName) -> StoredModel:
        """Stores what was tried as a model of this name, which replaces another. Raises `Conflict` if its source was
        deleted."""
        converted = await self._converting.stored(trial.folder, trial.result)
        return await self._publish(name, trial.record, trial.metadata, converted)

    async def reencoded(
        self, record: StoredModel, engine: str, kind: str, *, on_progress: OnLoadProgress = _ignore
    ) -> StoredModel:
        """The model with the weights that the engine loads in place of its own: of the type `kind` if that is one, else
        what was kept for the engine when the model was tuned; the model itself if there is nothing."""
        if record.weights is None:
            return record
        wanted = quantization_type(kind)
        if wanted is None:
            found = await self._whole(tuned_name(record.weights.digest, engine))
        elif wanted == record.quantization:
            found = None
        else:
            weights_alone = msgspec.structs.replace(record, files=record.files_of("weights"))
            parameters = {"type": wanted, "requantize": True}
            found = await self.derive(weights_alone, QUANTIZER, parameters=parameters, on_progress=on_progress)
        if found is None or found.weights is None:
            return record
        files = tuple(found.weights if file == record.weights else file for file in record.files)
        return msgspec.structs.replace(record, files=files, quantization=found.quantization)

    async def convert(
        self,
        record: StoredModel,
        to: str,
        *,
        name: ModelName | None = None,
        parameters: Mapping[str, Any] = {},
        on_progress: OnLoadProgress = _ignore,
    ) -> StoredModel:
        """As `derive`, but the result is an independent model that has the texts, parameters and template of
        its source. Without `name`, it gets the source's name with the converter added to the tag.

        It shares its files with the derived model, and stays if the source is deleted. An existing model of this name
        is replaced.
        """
        target = name or converted_name(record.name, to)
        if target.key == record.name.key:
            raise InvalidRequest(f"{target.short} is the model itself", "choose another name for the result")
        refuse_derived(target)
        derived = await self.derive(record, to, parameters=parameters, on_progress=on_progress)
        own = msgspec.structs.replace(
            derived.content(),
            system=record.system,
            parameters=record.parameters,
            messages=record.messages,
            licenses=record.licenses,
            template=record.template or derived.template,
        )
        return await self._models.publish(target, own)

    async def discard_damaged(self, derived: StoredModel) -> bool:
        """Hash the files of a derived model, and delete those that have changed.

        True if there were any: the next `derive` converts the model again.
        """
        damaged = [file.digest for file in derived.files if await self._hash(file.digest) != file.digest]
        if damaged:
            async with self._manifests.guard(exclusive=True):
                for digest in damaged:
                    await self._blobs.delete(digest)
            await self._local.drop_folder(derived.digest)
        return bool(damaged)

    # ── Making ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _make(
        self,
        name: ModelName,
        spec: ConverterSpec,
        record: StoredModel,
        metadata: ModelMetadata | None,
        parameters: Mapping[str, Any],
        on_progress: OnLoadProgress,
    ) -> StoredModel:
        _log.info("converting %s with the %s converter", record.name.short, spec.name)
        began_s = time.monotonic()
        async with self._models.loadable_files(record) as files:
            weights = [file for file in files if file.role == "weights"]
            converted = await self._converting.run(spec, record, metadata, weights, parameters, on_progress)
            published = await self._publish(name, record, metadata, converted)
        _log.info("converted %s in %.1f s", record.name.short, time.monotonic() - began_s)
        return published

    async def _publish(
        self, name: ModelName, record: StoredModel, metadata: ModelMetadata | None, converted: Converted
    ) -> StoredModel:
        async with self._converting.discarding() as made:
            made += converted.digests
            if await self._blobs.stat(_weights(record).digest) is None:
                raise Conflict(f"{record.name.short} was deleted while it was being converted")
            derived = derived_model(record, metadata, converted.result, converted.files)
            return await self._models.publish(name, derived)

    # ── Finding ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _stated(self, name: str, parameters: Mapping[str, Any]) -> tuple[ConverterSpec, dict[str, Any]]:
        """The converter of that name, and all of its parameters."""
        for spec in self.converters:
            if spec.name == name:
                return spec, typed_parameters(spec, self._settings.get(name, {}), parameters)
        known = ", ".join(spec.name for spec in self.converters)
        raise Unsupported(f"there is no converter {name!r}", f"there are: {known}" if known else None)

    async def _whole(self, name: ModelName) -> StoredModel | None:
        """The model if it is there with all its files."""
        try:
            record = await self._models.get(name)
        except ModelNotFound:
            return None
        except StorageError as error:
            _log.warning("converting %s again, because it cannot be read: %s", name, error)
            return None
        if record.weights is None:
            return None
        for file in record.files:
            if await self._blobs.stat(file.digest) is None:
                return None
        return record

    async def _hash(self, digest: Digest) -> str:
        """The digest of the blob's bytes as they are now; empty if it is missing."""
        found = hashlib.sha256()
        try:
            async with aclosing(self._blobs.read(digest)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(found.update, chunk)
        except (StorageError, BlobNotFound):
            return ""
        return f"sha256:{found.hexdigest()}"
