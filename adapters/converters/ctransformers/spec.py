"""What the ctransformers converter registers: which models it converts, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping

from corral.adapters.converters.ctransformers.layout import WANTED_KEYS
from corral.adapters.formats.gguf.pretokenizers import PRE_TOKENIZERS
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import Match

__all__ = ("CONVERTER", "KNOWN_TYPES", "RE_ENCODED", "SCORE", "unsupported")

SCORE = 20

KNOWN_TYPES = frozenset({"F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"})
"""Tensor types of llama.cpp in September 2023, whose layouts have not changed since."""

RE_ENCODED = {"BF16": "F16"}
"""Types that were added later, with the types they are converted to."""

_SCALINGS = ("", "none", "linear")


def unsupported(metadata: ModelMetadata) -> str | None:
    """Why llama.cpp of September 2023 cannot compute this model, as the end of a sentence; None if it can."""
    keys = metadata.keys
    if metadata.architecture != "llama":
        return f"it supports only the llama architecture, not {metadata.architecture}"
    missing = [key for key in WANTED_KEYS if not isinstance(keys.get(key), int) or keys[key] < 1]
    if missing:
        return f"its header has no usable {missing[0]}"
    foreign = sorted(set(metadata.tensor_types) - KNOWN_TYPES - set(RE_ENCODED))
    if foreign:
        return f"it does not support {', '.join(foreign)} weights"
    if keys.get("llama.expert_count"):
        return "it does not support mixtures of experts"
    scaling = keys.get("llama.rope.scaling.type", "")
    if scaling not in _SCALINGS:
        return f"it does not support the rope scaling {scaling!r}"
    size = keys["llama.embedding_length"] // keys["llama.attention.head_count"]
    for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if keys.get(f"llama.{name}", size) != size:
            return f"it needs {name} to be {size}, the width divided by the number of heads"
    if metadata.sliding_window:
        return "it does not support sliding windows"
    model, splitting = keys.get("tokenizer.ggml.model"), keys.get("tokenizer.ggml.pre", "default")
    if model not in ("gpt2", "llama"):
        return f"its vocabulary is of type {model!r}; only gpt2 and llama are supported"
    if model == "gpt2" and splitting not in PRE_TOKENIZERS:
        return f"the pre-tokenizer {splitting!r} of its vocabulary is not supported"
    return None


def _match(model: Model, metadata: ModelMetadata | None) -> Match:
    if metadata is None or model.weights is None or metadata.format != "gguf":
        return Match(score=0, reason="needs local GGUF weights")
    reason = unsupported(metadata)
    if reason is not None:
        return Match(score=0, reason=reason)
    return Match(score=SCORE, reason="rewrites the file in the format of September 2023; the weights are unchanged")


def _estimate(record: StoredModel, metadata: ModelMetadata | None, parameters: None) -> Mapping[str, int]:
    """The disk space of the result: the weights, plus a copy of the token table as output matrix in up to 16 bits."""
    if metadata is None:
        return {}
    table = (metadata.vocabulary_size or 0) * (metadata.embedding_length or 0)
    return {"disk": metadata.tensor_bytes + 2 * table}


CONVERTER = ConverterSpec(
    name="ctransformers",
    summary="GGUF of the llama architecture to the version that ctransformers 0.2.27 reads",
    convert="corral.adapters.converters.ctransformers.convert:convert",
    match=_match,
    estimate=_estimate,
    requirement="numpy>=1.26",
    module="numpy",
    install_hint="pip install 'corral[ctransformers]'",
)
