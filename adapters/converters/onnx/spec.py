"""What the ONNX converter registers: its parameters and which models it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS
from corral.adapters.formats.gguf.tables import DEQUANTIZED_TYPES, FOUR_BIT_TYPES, TENSOR_TYPES
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import Match

__all__ = ("ARCHITECTURES", "CONVERTER", "OnnxParameters")

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Values of ``general.architecture`` whose graph is built here."""

_TOKENIZERS = ("gpt2", "llama")
_ROPE_SCALINGS = (None, "none", "linear")

_EIGHT_BIT_BYTES, _FOUR_BIT_BYTES = 1 + 4 / 32, 0.5 * 33 / 32 + 4.5 / 32
"""Bytes of a weight, including its share of scales, zero points and remainders."""

_OTHER_BYTES = 64 * 1024 * 1024
_MEMORY_BYTES = 512 * 1024 * 1024


class OnnxParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a conversion.

    `bits` of a weight in the layers: None keeps 4-bit weights as they are and gives all others 8. The token table and
    the output always have 8. `accuracy_level`: the type in which ONNX Runtime multiplies matrices; 4 is int8 and the
    fastest, 1 is float32. `context_length`: the most tokens of a context, None for the model's own; the rotary tables
    have a row for each.
    """

    bits: Literal[4, 8] | None = None
    accuracy_level: Literal[1, 4] = 4
    context_length: Annotated[int, msgspec.Meta(ge=1, le=4_194_304)] | None = None


def _match(model: Model, metadata: ModelMetadata | None) -> Match:
    obstacle = _obstacle(model, metadata)
    if obstacle is not None:
        return Match(score=0, reason=obstacle)
    return Match(score=100, reason="converts GGUF of the llama family to ONNX; 4-bit weights are kept as they are")


def _obstacle(model: Model, metadata: ModelMetadata | None) -> str | None:
    """Why a model cannot be converted; None if its header says nothing against it."""
    if metadata is None and model.weights is not None and model.format in ("", "gguf"):
        return "needs weights that can be read"
    if metadata is None or model.weights is None or metadata.format != "gguf":
        found = metadata.format if metadata else model.format or "a model without weights"
        return f"converts GGUF weights only, not {found}"
    keys, architecture = metadata.keys, metadata.architecture
    if architecture not in ARCHITECTURES:
        return f"converts {', '.join(ARCHITECTURES)} only, not {architecture}"
    if len(model.files_of("weights")) > 1:
        return "weights in several files cannot be converted"
    if keys.get(f"{architecture}.expert_count"):
        return "mixtures of experts cannot be converted"
    scaling = keys.get(f"{architecture}.rope.scaling.type")
    if scaling not in _ROPE_SCALINGS:
        return f"the rope scaling {scaling!r} cannot be converted"
    tokenizer = keys.get("tokenizer.ggml.model")
    if tokenizer not in _TOKENIZERS:
        return f"converts {' and '.join(_TOKENIZERS)} tokenizers only, not {tokenizer!r}"
    pre = keys.get("tokenizer.ggml.pre", "default")
    if tokenizer == "gpt2" and pre not in PRE_TOKENIZERS:
        return f"the pre-tokenizer {pre!r} is not supported"
    unreadable = sorted(set(metadata.tensor_types) - DEQUANTIZED_TYPES)
    if unreadable:
        return f"weights of the type {', '.join(unreadable)} cannot be read"
    return None


def _estimate(record: StoredModel, metadata: ModelMetadata | None, parameters: OnnxParameters) -> Mapping[str, int]:
    """The result's size on disk, and memory for a few pieces of the weights, the rotary tables and the vocabulary."""
    if metadata is None:
        return {}
    sizes = {kind.name: kind.block_bytes / kind.block for kind in TENSOR_TYPES.values()}
    disk = 0.0
    for name, size_bytes in metadata.tensor_types.items():
        wide = parameters.bits == 8 or (parameters.bits is None and name not in FOUR_BIT_TYPES)
        disk += size_bytes / sizes[name] * (_EIGHT_BIT_BYTES if wide else _FOUR_BIT_BYTES)
    table = (metadata.vocabulary_size or 0) * (metadata.embedding_length or 0)  # always 8 bits
    return {"disk": int(disk + table * (_EIGHT_BIT_BYTES - _FOUR_BIT_BYTES)) + _OTHER_BYTES, "cpu": _MEMORY_BYTES}


CONVERTER = ConverterSpec(
    name="onnx",
    summary="GGUF of the llama family to ONNX Runtime GenAI, in 4 or 8 bits",
    convert="corral.adapters.converters.onnx.convert:convert",
    match=_match,
    estimate=_estimate,
    version=2,
    parameters=OnnxParameters,
    module="onnx",
    requirement="onnx>=1.17",
    install_hint="pip install 'corral[onnx]'",
)
