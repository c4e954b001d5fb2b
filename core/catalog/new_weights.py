"""Makes the weights of a new model where they are not there yet: converted from a checkpoint, or quantized."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from corral.core.catalog.checkpoints import CheckpointConverter
from corral.core.catalog.create_calls import CreateCall, GivenFiles
from corral.core.catalog.given_files import NO_DIGEST, GivenFileReader
from corral.core.catalog.inspection import WeightsInspector
from corral.core.catalog.new_adapters import AdapterMaker
from corral.core.catalog.new_models import Part, file_model
from corral.core.catalog.quantizing import UNQUANTIZED, Quantizer, check_quantization, known_quantization
from corral.core.errors import NotFound, Unsupported
from corral.core.models.digests import Digest
from corral.core.models.model import Model, ModelMetadata
from corral.core.models.quantization_types import QuantizationType
from corral.core.ports.blobs import BlobInfo, LocalBlobs
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("WeightsMaker",)

_CONVERSION = Digest("0" * 18 + "1")  # programs show one bar for each digest


class WeightsMaker:
    """`adapters` makes those of a new model. What both add to the store is in `GivenFileReader.made`. Without a
    `quantizer` or `checkpoints`, it refuses weights that would have to be quantized or converted."""

    def __init__(
        self,
        *,
        quantizer: Quantizer | None,
        checkpoints: CheckpointConverter | None,
        inspector: WeightsInspector,
        local: LocalBlobs,
    ) -> None:
        self.adapters = AdapterMaker(checkpoints=checkpoints, inspector=inspector, local=local)
        self._quantizer = quantizer
        self._checkpoints = checkpoints
        self._inspector = inspector
        self._local = local

    async def require(self, call: CreateCall, files: GivenFiles) -> QuantizationType | None:
        """The type that the call wants of the weights of a checkpoint, of which there are these files so far. Raises
        what is known to go wrong with it before more is fetched, or anything converted: `InvalidRequest`,
        `InvalidModelFile`, `Unsupported`, `EngineNotInstalled`."""
        if self._checkpoints is None:
            raise Unsupported("nothing here converts safetensors")
        if not call.quantize:
            return None
        wanted = known_quantization(call.quantize)
        if wanted not in UNQUANTIZED:
            width = await self._checkpoints.width(files)
            self._required().require(wanted, importance_matrix=call.importance_matrix, width=width)
        return wanted

    async def converted(
        self, call: CreateCall, files: GivenFiles, reader: GivenFileReader, on_progress: OnProgress
    ) -> tuple[Model, ModelMetadata]:
        """The model that these files of a checkpoint become, of the type that the call asks for, and what the header of
        its weights says; of a type that it is quantized to, what it said before."""
        wanted = await self.require(call, files)
        assert self._checkpoints is not None
        total = 0
        for name, file in files.items():
            if isinstance(file, Path):
                total += await asyncio.to_thread(_size_bytes, file)
            else:
                total += (await reader.require(name, file)).size_bytes
        report = _shares("converting model", _CONVERSION, total, on_progress)
        report(0.0)
        async with self._checkpoints.converted(call.name, files, wanted, report) as made:
            metadata = self._inspector.known(await self._inspector.inspect(made.path), made.path.name, {})
            # Under the digest of its source until it is in the store; if it is quantized first, it never will be.
            size_bytes = (await asyncio.to_thread(made.path.stat)).st_size
            part = Part(
                file_name=made.path.name,
                blob=BlobInfo(digest=made.source, size_bytes=size_bytes),
                metadata=metadata,
            )
            unstored = file_model((part,), part)
            model = await self.quantized(unstored, call, metadata, reader, on_progress, made.path)
            if model is unstored:
                on_progress(FetchProgress(status="verifying conversion"))
                stored = await self._local.adopt(made.path, on_stored=reader.made.append)
                own = msgspec.structs.replace(unstored.files[0], digest=stored.digest)
                model = msgspec.structs.replace(unstored, files=(own,), converted_from=made.source)
        return model, metadata

    async def quantized(
        self,
        model: Model,
        call: CreateCall,
        metadata: ModelMetadata | None,
        reader: GivenFileReader,
        on_progress: OnProgress,
        path: Path | None = None,
    ) -> Model:
        """The model with weights of the type that the call asks for, if it asks for one that they do not have.

        With `path`, its weights are this file, which is in no store."""
        if not call.quantize:
            return model
        kind = check_quantization(call.quantize, metadata, requantize=call.requantize)
        if kind is None:
            return model
        assert metadata is not None
        weights = model.weights
        assert weights is not None
        quantizer = self._required()
        quantizer.require(kind, importance_matrix=call.importance_matrix)
        status = f"quantizing {metadata.file_type} model to {kind}"
        quantized = await quantizer.quantize(
            call.name,
            model,
            metadata,
            kind,
            requantize=call.requantize,
            importance_matrix=call.importance_matrix,
            path=path,
            on_progress=_shares(status, NO_DIGEST, weights.size_bytes, on_progress),
        )
        reader.made.append(quantized.digest)
        on_progress(FetchProgress(status="verifying conversion"))
        found = await self._inspector.metadata(quantized.digest)
        return msgspec.structs.replace(
            model,
            quantization=found.file_type if found is not None and found.file_type else kind,
            files=tuple(quantized if file == weights else file for file in model.files),
            converted_from=weights.digest,
            joined_from=(),
        )

    def _required(self) -> Quantizer:
        if self._quantizer is None:
            raise Unsupported("nothing here quantizes weights")
        return self._quantizer


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror or error}") from error


def _shares(status: str, digest: Digest, total_bytes: int, on_progress: OnProgress) -> Callable[[float], None]:
    """Reports shares, 0 to 1, as Ollama reports bytes."""

    def report(share: float) -> None:
        on_progress(
            FetchProgress(
                status=status, digest=digest, total_bytes=total_bytes, completed_bytes=round(share * total_bytes)
            )
        )

    return report
