"""What the converter of checkpoints registers: its parameters, and which checkpoints it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from corral.adapters.converters.safetensors.architectures import FAMILIES
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import Match

__all__ = ("CONVERTER", "GgufParameters")

_HEADER_BYTES = 64 * 1024 * 1024


class GgufParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`type` of the matrices: ``auto`` keeps BF16, and makes everything else F16. Vectors are always F32."""

    type: Literal["auto", "F32", "F16", "BF16"] = "auto"


def _match(model: Model, metadata: ModelMetadata | None) -> Match:
    if model.format != "safetensors":
        found = metadata.format if metadata else model.format or "a model without weights"
        return Match(score=0, reason=f"converts safetensors only, not {found}")
    if model.family not in FAMILIES:
        return Match(score=0, reason=f"converts {', '.join(FAMILIES)} only, not {model.family}")
    return Match(score=100, reason="converts safetensors to GGUF")


def _estimate(record: StoredModel, metadata: ModelMetadata | None, parameters: GgufParameters) -> Mapping[str, int]:
    """The disk space of the result: at most that of all files, doubled for 16 bits that become 32."""
    size_bytes = sum(file.size_bytes for file in record.files_of("weights"))
    return {"disk": size_bytes * (2 if parameters.type == "F32" else 1) + _HEADER_BYTES}


CONVERTER = ConverterSpec(
    name="gguf",
    summary="safetensors to GGUF, in 16 or 32 bits",
    convert="corral.adapters.converters.safetensors.convert:convert",
    architectures=tuple(FAMILIES),
    convert_adapter="corral.adapters.converters.safetensors.lora.convert:convert_adapter",
    match=_match,
    estimate=_estimate,
    parameters=GgufParameters,
    module="numpy",
    requirement="numpy>=1.26",
    install_hint="pip install 'corral[llama-cpp]'",
)
