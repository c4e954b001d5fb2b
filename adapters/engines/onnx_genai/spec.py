"""What the ONNX Runtime GenAI engine registers: its options, which models it runs, and how much memory they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.adapters.converters.onnx.spec import CONVERTER
from corral.core.errors import InvalidOption
from corral.core.models.manifest_or_weights import completed
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.specs.engines import Derivation, EngineSpec, Match, options_fit

__all__ = ("CONFIG_FILE", "DEFAULT_NUM_CTX", "REQUIREMENT", "SPEC", "OnnxGenaiOptions")

# The package for CPUs, and those with other execution providers: all contain the same module.
REQUIREMENT = "onnxruntime-genai==0.18.* | onnxruntime-genai-cuda==0.18.* | onnxruntime-genai-directml==0.18.*"
CONFIG_FILE = "genai_config.json"
DEFAULT_NUM_CTX = 4096


class OnnxGenaiOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Load options. None lets the engine choose: ``corral ps`` and ``corral show`` print its choice.

    `num_ctx`: most tokens of one request. `num_parallel`: requests worked on at once; None: the largest of 8, 4, 2, 1
    whose KV caches fit a quarter of free memory. `num_thread`: 0 is one per processor. `max_prefill_tokens`: most
    prompt tokens of a step while any answer is being generated; prompts are computed in pieces of this size.
    `provider`: the execution provider (``cpu``, ``cuda``, ``dml``, ``webgpu``, ``openvino``, ``qnn``), in
    any case; None: what the model's ``genai_config.json`` names. `provider_options` are handed to it as they are.
    """

    num_ctx: int | None = None
    num_parallel: int | None = None
    num_thread: int = 0
    max_prefill_tokens: int = 64
    provider: str | None = None
    provider_options: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Raises `InvalidOption` for options that contradict each other."""
        if self.provider_options and (self.provider or "cpu").lower() == "cpu":
            raise InvalidOption("provider_options need a provider other than cpu", "set provider too")


def _match(model: Model, metadata: ModelMetadata | None, options: OnnxGenaiOptions) -> Match:
    if model.remote is not None:
        return Match(score=0, reason="runs local weights only")
    if model.format == "onnx":
        if len(model.files_of("adapter")) > 1:
            return Match(score=0, reason="applies one adapter, and this model has more: remove the others")
        if any(file.path == CONFIG_FILE for file in model.files):
            return Match(score=100, reason="runs folders for ONNX Runtime GenAI")
        return Match(score=0, reason=f"an ONNX model without {CONFIG_FILE} cannot generate text on this engine")
    converted = CONVERTER.match(model, metadata)
    if converted.score > 0:
        reason = f"runs it after conversion: {converted.reason}"
        return Match(score=50, reason=reason, derive=Derivation(converter=CONVERTER.name))
    return Match(score=0, reason=f"runs folders with {CONFIG_FILE}; cannot be converted: {converted.reason}")


def _estimate(record: StoredModel, metadata: ModelMetadata | None, options: OnnxGenaiOptions) -> Mapping[str, int]:
    """Weights, the KV caches, and the scores and logits of a piece of a prompt. Without metadata, the size of a cache
    is estimated, since a manifest does not contain it.
    """
    weights = sum(file.size_bytes for file in record.files if file.role in ("weights", "adapter"))
    context = options.num_ctx or DEFAULT_NUM_CTX
    trained = completed(record, metadata).context_length
    if trained:
        context = min(context, trained)
    if metadata is not None and metadata.kv_bytes_per_token:
        per_token = 2 * metadata.kv_bytes_per_token  # metadata counts f16; models for CPUs keep float32
    else:
        per_token = weights // 10_000  # between the values of models of 1 and of 70 GB
    heads = metadata.keys.get(f"{metadata.architecture}.attention.head_count") if metadata is not None else None
    vocabulary = (metadata.vocabulary_size if metadata is not None else None) or 32_000
    row = context * (heads if isinstance(heads, int) else 32) + vocabulary
    piece = 4 * options.max_prefill_tokens * row
    return {"cpu": weights + per_token * context * (options.num_parallel or 1) + piece}


def _fits(loaded: Any, wanted: Any) -> bool:
    return options_fit(loaded, wanted, {"num_ctx": DEFAULT_NUM_CTX, "num_parallel": None})


SPEC = EngineSpec(
    name="onnx-genai",
    summary="ONNX models built for ONNX Runtime GenAI, on CPU and its other execution providers",
    form="step",
    load="corral.adapters.engines.onnx_genai.loader:load",
    vocabulary="corral.adapters.engines.onnx_genai.loader:vocabulary",
    match=_match,
    estimate=_estimate,
    fits=_fits,
    runners=("process",),
    takes="model folders with genai_config.json; GGUF files of the llama family after conversion",
    devices="corral.adapters.engines.onnx_genai.loader:devices",
    load_options=OnnxGenaiOptions,
    module="onnxruntime_genai",
    requirement=REQUIREMENT,
    needs=("tokenizers", "numpy"),
    install_hint="pip install 'corral[onnx]'",
    adapters=True,
)
