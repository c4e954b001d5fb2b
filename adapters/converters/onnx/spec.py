"""What the ONNX converter registers: its parameters and which models it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS
from corral.adapters.formats.gguf.tables import DEQUANTIZED_TYPES
from corral.core.converters import ConverterSpec
from corral.core.engines import Match
from corral.core.models import ModelMetadata, ModelRecord

__all__ = ("ARCHITECTURES", "CONVERTER", "OnnxParameters")

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Values of ``general.architecture`` whose graph is built here."""

_TOKENIZERS = ("gpt2", "llama")
_ROPE_SCALINGS = (None, "none", "linear")


class OnnxParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a conversion may be told.

    `bits` of a weight in the layers: None takes 4-bit weights over as they are and gives all others 8. The token table
    and the output always have 8. `accuracy_level`: what ONNX Runtime computes a product of matrices in, 4 is int8 and
    the fastest, 1 is float32. `context_length`: most tokens of a context, None for the model's own; the rotary tables
    have a row for each.
    """

    bits: Literal[4, 8] | None = None
    accuracy_level: Literal[1, 4] = 4
    context_length: Annotated[int, msgspec.Meta(ge=1, le=4_194_304)] | None = None


def _match(record: ModelRecord, metadata: ModelMetadata | None) -> Match:
    obstacle = _obstacle(record, metadata)
    if obstacle is not None:
        return Match(score=0, reason=obstacle)
    return Match(score=100, reason="GGUF of the llama family becomes ONNX; 4-bit weights are taken over as they are")


def _obstacle(record: ModelRecord, metadata: ModelMetadata | None) -> str | None:
    """Why a model cannot be converted, None where it can as far as its header says."""
    if metadata is None or record.weights is None or metadata.format != "gguf":
        found = metadata.format if metadata else record.format or "a model without weights"
        return f"converts GGUF weights, this is {found}"
    keys, architecture = metadata.keys, metadata.architecture
    if architecture not in ARCHITECTURES:
        return f"converts {', '.join(ARCHITECTURES)}, this is {architecture}"
    if len(record.files_of("weights")) > 1:
        return "weights in several files cannot be converted"
    if keys.get(f"{architecture}.expert_count"):
        return "mixtures of experts cannot be converted"
    scaling = keys.get(f"{architecture}.rope.scaling.type")
    if scaling not in _ROPE_SCALINGS:
        return f"the rope scaling {scaling!r} cannot be converted"
    tokenizer = keys.get("tokenizer.ggml.model")
    if tokenizer not in _TOKENIZERS:
        return f"converts tokenizers of the kinds {' and '.join(_TOKENIZERS)}, this is {tokenizer!r}"
    pre = keys.get("tokenizer.ggml.pre", "default")
    if tokenizer == "gpt2" and pre not in PRE_TOKENIZERS:
        return f"the pre-tokenizer {pre!r} is not known"
    unreadable = sorted(set(metadata.tensor_types) - DEQUANTIZED_TYPES)
    if unreadable:
        return f"weights of the type {', '.join(unreadable)} cannot be read"
    return None


def _estimate(record: ModelRecord, metadata: ModelMetadata | None, parameters: OnnxParameters) -> Mapping[str, int]:
    """The disk that the result takes: every weight its bits, and a float32 scale for 32 of them."""
    if metadata is None:
        return {}
    table = (metadata.vocabulary_size or 0) * (metadata.embedding_length or 0)
    kept = 0 if parameters.bits else sum(metadata.tensor_types.get(name, 0) for name in ("Q4_0", "Q4_1"))
    rest = max(0, metadata.parameter_count - table - kept * 8 // 5)  # 4-bit blocks take 5/8 of a byte per weight
    return {"disk": kept + table * 9 // 8 + rest * ((parameters.bits or 8) + 1) // 8}


CONVERTER = ConverterSpec(
    name="onnx",
    summary="GGUF of the llama family to ONNX Runtime GenAI, int4",
    convert="corral.adapters.converters.onnx.convert:convert",
    match=_match,
    version=2,
    parameters=OnnxParameters,
    estimate=_estimate,
    module="onnx",
    requirement="onnx>=1.17",
    install_hint="pip install 'corral[onnx]'",
)
