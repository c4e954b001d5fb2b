"""Quantizes the weights of models that are being created, with the converter that does so."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from corral.core.conversion.converting import Converting
from corral.core.conversion.results import require_able, typed_parameters
from corral.core.errors import EngineNotInstalled, Unsupported
from corral.core.models.model import Model, ModelFile, ModelMetadata, StoredModel
from corral.core.models.names import ModelName
from corral.core.models.quantization_types import QuantizationType, missing_matrix, needs_matrix
from corral.core.ports.blobs import LocalBlobs
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import LocalFile
from corral.core.specs.installation import Installation
from corral.core.wording.pip_lines import install_line

__all__ = ("IMPORTANCE_MATRIX", "QUANTIZER", "WeightsQuantizer")

QUANTIZER = "quantize"
"""The name of the converter that quantizes GGUF weights."""

IMPORTANCE_MATRIX = "importance matrix"
"""The name of the file, of the role ``other``, that a quantizer gets beside the weights."""


class WeightsQuantizer:
    """A `Quantizer` on top of the converter named `QUANTIZER`."""

    def __init__(
        self,
        *,
        converting: Converting,
        local: LocalBlobs,
        converters: Sequence[ConverterSpec],
        installation: Installation,
    ) -> None:
        self._converting = converting
        self._local = local
        self._spec = next((spec for spec in converters if spec.name == QUANTIZER), None)
        self._installation = installation

    def require(self, wanted: QuantizationType, *, importance_matrix: Path | None, width: int | None = None) -> None:
        if importance_matrix is None and needs_matrix(wanted, width):
            raise missing_matrix(wanted)
        spec = self._required()
        missing = self._installation.missing(spec)
        if missing:
            raise EngineNotInstalled(f"the {spec.name} converter cannot run here: {missing}", install_line(spec))

    async def quantize(
        self,
        name: ModelName,
        model: Model,
        metadata: ModelMetadata,
        wanted: QuantizationType,
        *,
        requantize: bool,
        importance_matrix: Path | None,
        path: Path | None = None,
        on_progress: OnLoadProgress,
    ) -> ModelFile:
        weights = model.weights
        assert weights is not None
        spec = self._required()
        record = StoredModel(
            **{field: getattr(model, field) for field in Model.__struct_fields__},
            name=name,
            digest=weights.digest,
            size_bytes=weights.size_bytes,
            modified_at=0.0,
        )
        require_able(spec, record, metadata, self._installation)
        parameters = typed_parameters(spec, {"type": wanted, "requantize": requantize})
        async with self._converting.discarding() as made, AsyncExitStack() as pins:
            path = path or await pins.enter_async_context(self._local.local(weights.digest))
            files = [LocalFile(role="weights", path=str(path))]
            if importance_matrix is not None:
                files.append(LocalFile(role="other", path=str(importance_matrix), name=IMPORTANCE_MATRIX))
            converted = await self._converting.run(spec, record, metadata, files, parameters, on_progress)
            made += converted.digests
        return converted.files[0]

    def _required(self) -> ConverterSpec:
        if self._spec is None:
            raise Unsupported(f"there is no converter {QUANTIZER!r}, which quantizes weights")
        return self._spec
