"""What the ctransformers engine registers: its options, which models it runs, and how much memory they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.adapters.converters.ctransformers.spec import CONVERTER, KNOWN_TYPES, unsupported
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.specs.engines import Derivation, EngineSpec, Match, options_fit

__all__ = ("DEFAULT_NUM_CTX", "REQUIREMENT", "SPEC", "VERSION", "CtransformersOptions", "cache_bytes_per_token")

VERSION = "0.2.27"
REQUIREMENT = f"ctransformers=={VERSION}"
DEFAULT_NUM_CTX = 4096

_DIRECT = 60
_GGUF_VERSION = 2
_FLOAT32_CACHES = frozenset({"gpt2", "starcoder"})
_LEGACY_BUFFER_BYTES = 256 * 1024 * 1024


class CtransformersOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Load options. None lets the engine choose: ``corral ps`` and ``corral show`` print its choice.

    `num_ctx`: most tokens of one request. `num_batch`: prompts are computed in pieces of this many tokens; a cancelled
    request ends with its piece, and prefixes are reused in whole pieces. `num_gpu`: layers on the GPU, which needs
    ctransformers' CUDA libraries; less than 1 is none. `num_thread`: the most threads, and never more than
    processors; 0: one per processor. Fewer compute while that is faster, as on a busy machine.
    """

    num_ctx: int | None = None
    num_batch: int = 64
    num_gpu: int = 0
    num_thread: int = 0
    use_mmap: bool | None = None


def _match(model: Model, metadata: ModelMetadata | None, options: CtransformersOptions) -> Match:
    if metadata is None or model.weights is None:
        return Match(score=0, reason="runs local weights only")
    if metadata.format == "ggml":
        return Match(score=_DIRECT, reason=f"runs legacy GGML files ({metadata.architecture})")
    if metadata.format != "gguf":
        return Match(score=0, reason=f"runs GGUF and legacy GGML, not {metadata.format}")
    if _is_direct(metadata):
        return Match(score=_DIRECT, reason="runs GGUF version 2 with an SPM vocabulary")
    converted = CONVERTER.match(model, metadata)
    if converted.score > 0:
        return Match(
            score=converted.score,
            reason=f"runs it after conversion: {converted.reason}",
            derive=Derivation(converter=CONVERTER.name),
        )
    return Match(score=0, reason=f"reads GGUF version 2 of September 2023; cannot be converted: {converted.reason}")


def _is_direct(metadata: ModelMetadata) -> bool:
    return (
        metadata.format_version == _GGUF_VERSION
        and metadata.keys.get("tokenizer.ggml.model") == "llama"
        and set(metadata.tensor_types) <= KNOWN_TYPES
        and unsupported(metadata) is None
    )


def _estimate(record: StoredModel, metadata: ModelMetadata | None, options: CtransformersOptions) -> Mapping[str, int]:
    """Weights, the KV cache and the compute buffers."""
    if metadata is None:
        return {}
    weights = sum(file.size_bytes for file in record.files if file.role == "weights")
    width = metadata.embedding_length or 4096
    trained = metadata.context_length or DEFAULT_NUM_CTX
    if metadata.format == "ggml":
        return {"cpu": weights + trained * cache_bytes_per_token(metadata) + _LEGACY_BUFFER_BYTES}
    context = min(options.num_ctx or DEFAULT_NUM_CTX, trained)
    heads = metadata.keys.get("llama.attention.head_count", 32)
    # The scores of a piece against the whole context, and the widest rows.
    compute = 4 * options.num_batch * (context * (heads if isinstance(heads, int) else 32) + 16 * width)
    return {"cpu": weights + context * cache_bytes_per_token(metadata) + compute}


def cache_bytes_per_token(metadata: ModelMetadata) -> int:
    """The size of the KV cache; estimated from the width if the header lacks details."""
    f16 = metadata.kv_bytes_per_token or 4 * metadata.block_count * (metadata.embedding_length or 4096)
    return 2 * f16 if metadata.architecture in _FLOAT32_CACHES else f16


def _fits(loaded: Any, wanted: Any) -> bool:
    return options_fit(loaded, wanted, {"num_ctx": DEFAULT_NUM_CTX})


SPEC = EngineSpec(
    name="ctransformers",
    summary="GGUF as it was in September 2023, and legacy GGML files of seven families",
    form="generator",
    load="corral.adapters.engines.ctransformers.loader:load",
    vocabulary="corral.adapters.engines.ctransformers.loader:vocabulary",
    match=_match,
    estimate=_estimate,
    fits=_fits,
    runners=("process",),
    tasks=frozenset({"completion", "embedding"}),
    takes="legacy GGML files; GGUF version 2 of the llama architecture, newer versions after conversion",
    devices="corral.adapters.engines.ctransformers.loader:devices",
    load_options=CtransformersOptions,
    module="ctransformers",
    needs=("numpy",),
    requirement=REQUIREMENT,
    install_hint="pip install 'corral[ctransformers]'",
)
