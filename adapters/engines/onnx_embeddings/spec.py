"""What the ONNX Runtime embeddings engine registers: options, which models it runs, and their memory needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from corral.core.errors import InvalidOption
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.specs.engines import EngineSpec, Match, options_fit

__all__ = ("SPEC", "OnnxEmbeddingsOptions")

_ACTIVATION_BYTES = 128 * 1024 * 1024  # of a step; grows with the model's width, which is not known here
_SMALL_NUMBERS = ("INT8", "UINT8", "INT4", "Q4", "Q8")


class OnnxEmbeddingsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Load options. `num_thread`: 0 is ONNX Runtime's choice, one per core. `num_ctx`: most tokens of one input; None
    uses the value from the model's files. `provider`: what computes, by ONNX Runtime's name for it without
    ``ExecutionProvider`` (``CPU``, ``CUDA``, ``CoreML``), in any case.
    """

    num_ctx: int | None = None
    num_thread: int = 0
    provider: str = "cpu"

    def __post_init__(self) -> None:
        """Raises `InvalidOption` for a value that no model can have."""
        if self.num_ctx is not None and self.num_ctx < 1:
            raise InvalidOption(f"num_ctx {self.num_ctx} is too small", "use 1 or more, or leave num_ctx unset")


def _match(model: Model, metadata: ModelMetadata | None, options: OnnxEmbeddingsOptions) -> Match:
    paths = {file.path for file in model.files}
    if model.format != "onnx":
        return Match(score=0, reason="runs folders with an ONNX model only")
    if "genai_config.json" in paths:
        return Match(score=0, reason="runs sentence encoders; this folder is for ONNX Runtime GenAI")
    if "tokenizer.json" not in paths:
        return Match(score=0, reason="needs tokenizer.json in the model's folder")
    if "rerank" in model.capabilities:
        return Match(score=100, reason="a cross-encoder with its tokenizer")
    if "embedding" not in model.capabilities:
        return Match(score=0, reason="runs sentence encoders and rerankers; config.json names another kind of model")
    return Match(score=100, reason="a sentence encoder with its tokenizer")


def _estimate(record: StoredModel, metadata: ModelMetadata | None, options: OnnxEmbeddingsOptions) -> Mapping[str, int]:
    """Weights and the numbers of one step. Quantized weights are often unpacked to float32 when they are loaded."""
    weights = sum(file.size_bytes for file in record.files if file.role == "weights")
    unpacked = 5 if record.quantization.upper().startswith(_SMALL_NUMBERS) else 1
    return {"cpu": weights * unpacked + _ACTIVATION_BYTES}


def _fits(loaded: Any, wanted: Any) -> bool:
    return options_fit(loaded, wanted, {"num_ctx": math.inf})


SPEC = EngineSpec(
    name="onnx-embeddings",
    summary="sentence encoders and rerankers in ONNX format: batched, with their own tokenizer and pooling",
    form="step",
    load="corral.adapters.engines.onnx_embeddings.loader:load",
    vocabulary="corral.adapters.engines.onnx_embeddings.loader:vocabulary",
    match=_match,
    estimate=_estimate,
    fits=_fits,
    # Importing onnxruntime enables a CPU's AMX unit for the whole process, in which llama.cpp could not run.
    runners=("process",),
    tasks=frozenset({"embedding", "rerank"}),
    takes="model folders with an ONNX sentence encoder or cross-encoder, and tokenizer.json",
    devices="corral.adapters.engines.onnx_embeddings.loader:devices",
    load_options=OnnxEmbeddingsOptions,
    module="onnxruntime",
    needs=("tokenizers", "numpy"),
    install_hint="pip install 'corral[onnx]'",
)
