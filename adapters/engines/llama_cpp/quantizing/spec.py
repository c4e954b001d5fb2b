"""What the quantizer registers: a converter from GGUF to GGUF of another type."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from corral.adapters.engines.llama_cpp.spec import REQUIREMENT
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.models.quantization_types import QuantizationType
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import Match

__all__ = ("CONVERTER", "QuantizeParameters", "bits_per_weight")

_BITS = {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q5": 6.0, "Q4": 5.0, "IQ4": 4.5}


class QuantizeParameters(msgspec.Struct, frozen=True, kw_only=True):
    """`type`: what the weights become. `requantize`: do so even if they are quantized already."""

    type: QuantizationType = QuantizationType.Q4_K_M
    requantize: bool = False


def bits_per_weight(kind: str) -> float:
    """At most how many bits a weight takes in a file of this type, with its scales; small models keep more."""
    return next((bits for name, bits in _BITS.items() if kind.startswith(name)), 4.5)


def _match(model: Model, metadata: ModelMetadata | None) -> Match:
    if metadata is None or model.weights is None or metadata.format != "gguf":
        return Match(score=0, reason="needs local GGUF weights")
    return Match(score=1, reason="llama.cpp's quantizer re-encodes the weights")


def _estimate(record: StoredModel, metadata: ModelMetadata | None, parameters: QuantizeParameters) -> Mapping[str, int]:
    """The disk space of the result: tensors that the type does not fit are kept in a larger one."""
    if metadata is None:
        return {}
    return {"disk": int(metadata.parameter_count * bits_per_weight(parameters.type) / 8 * 1.1) + (16 << 20)}


CONVERTER = ConverterSpec(
    name="quantize",
    summary="GGUF to GGUF with weights of another type, by llama.cpp's quantizer",
    convert="corral.adapters.engines.llama_cpp.quantizing.quantize:quantize",
    match=_match,
    parameters=QuantizeParameters,
    estimate=_estimate,
    requirement=REQUIREMENT,
    module="llama_cpp",
    install_hint="pip install 'corral[llama-cpp]'",
)
