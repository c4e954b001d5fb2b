"""Makes the LoRA adapters of a new model from the files that are given for them, and converts those of PEFT."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from corral.core.catalog.adapter_fit import check_adapters
from corral.core.catalog.checkpoints import CheckpointConverter, given_checkpoint, is_checkpoint
from corral.core.catalog.create_calls import CreateCall, GivenAdapter
from corral.core.catalog.given_files import GivenFileReader, model_files
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.new_models import file_role
from corral.core.errors import InvalidRequest, Unsupported
from corral.core.models.model import Model, ModelFile
from corral.core.ports.blobs import LocalBlobs
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("AdapterMaker",)


class AdapterMaker:
    """What it adds to the store is in `GivenFileReader.made`. Without `checkpoints`, it refuses adapters that would
    have to be converted."""

    def __init__(
        self, *, checkpoints: CheckpointConverter | None, inspector: WeightsInspector, local: LocalBlobs
    ) -> None:
        self._checkpoints = checkpoints
        self._inspector = inspector
        self._local = local

    async def made(
        self, call: CreateCall, model: Model, given: GivenAdapter, reader: GivenFileReader, on_progress: OnProgress
    ) -> ModelFile:
        """The adapter as a file of the model, whose weights are in the store. Raises `InvalidRequest`, what
        `check_adapters` raises if it does not fit these, and what converting raises."""
        if not math.isfinite(given.scale):
            raise InvalidRequest(f"the scale of an adapter must be a number, not {given.scale}")
        file, name = await self._file(call, model, given, reader, on_progress)
        if model.weights is not None:
            await check_adapters(
                self._inspector, call.base or call.name.short, model.weights.digest, {file.digest: name}
            )
        return msgspec.structs.replace(file, scale=given.scale)

    async def _file(
        self, call: CreateCall, model: Model, given: GivenAdapter, reader: GivenFileReader, on_progress: OnProgress
    ) -> tuple[ModelFile, str]:
        if is_checkpoint(given.files):
            return await self._converted(call, model, given, reader, on_progress)
        if len(given.files) > 1:
            raise InvalidRequest("only one adapter is currently supported")
        [part] = await reader.parts(given.files, on_progress)
        if file_role(part.metadata) != "adapter":
            raise InvalidRequest(f"{part.file_name} is no adapter: general.type of its header does not say so")
        return model_files([part], "adapter")[0], part.file_name

    async def _converted(
        self, call: CreateCall, model: Model, given: GivenAdapter, reader: GivenFileReader, on_progress: OnProgress
    ) -> tuple[ModelFile, str]:
        if self._checkpoints is None or model.weights is None or model.format not in ("gguf", ""):
            raise Unsupported("an adapter in safetensors is converted only for weights in GGUF")
        files, others = given_checkpoint(given.files)
        if others:
            raise InvalidRequest("an adapter is in safetensors or in GGUF", f"these are both: {', '.join(given.files)}")
        for name, file in files.items():
            if not isinstance(file, Path):
                await reader.require(name, file)
        on_progress(FetchProgress(status="converting adapter"))
        async with self._checkpoints.converted_adapter(
            call.name, files, model.weights.digest, lambda share: None
        ) as path:
            blob = await self._local.adopt(path, on_stored=reader.made.append)
        own = ModelFile(role="adapter", media_type="", digest=blob.digest, size_bytes=blob.size_bytes)
        return own, next(name for name in files if name.endswith(".safetensors"))
