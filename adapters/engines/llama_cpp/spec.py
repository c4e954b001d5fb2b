"""What the llama.cpp engine registers: its options, which models it runs, and how much memory they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from corral.adapters.engines.llama_cpp.architectures import ARCHITECTURES
from corral.adapters.engines.llama_cpp.memory_needs import (
    LARGEST_BATCH,
    OUTPUTS_PER_STREAM,
    batch_tokens,
    compute_bytes,
    kv_bytes,
    projector_bytes,
)
from corral.core.errors import InvalidOption
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.models.quantization_types import QuantizationType
from corral.core.specs.engines import EngineSpec, Match, options_fit

__all__ = ("DEFAULT_NUM_CTX", "REQUIREMENT", "SPEC", "VERSION", "LlamaCppOptions")

VERSION = "0.3.36"
REQUIREMENT = f"llama-cpp-python=={VERSION}"
DEFAULT_NUM_CTX = 4096

# Types whose kernels gave the same rows alone and among others on every machine measured, repacked or not: see
# `exactness`.
_EXACT_TYPES = frozenset({"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"})


class LlamaCppOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Load options. None lets the engine choose: ``corral ps`` and ``corral show`` print its choice.

    `num_ctx`: most tokens of one request; memory for them is taken when a request needs them. `num_parallel`: requests
    at once, with a KV stream for each from the start; None: one stream, and more as requests wait, up to the largest of
    8, 4, 2, 1 whose KV cache fits a quarter of free memory. `num_gpu`: layers on the GPU, -1 all that fit.
    `num_thread`: the most threads, and never more than processors; 0: one per processor. Fewer compute while that is
    faster, as on a busy machine.
    `flash_attention`: None is off on a CPU (texts are exact without it) and llama.cpp's choice on a GPU.
    `row_attention`: on a CPU, compute the attention of each token by itself: with weights of Q8_0, Q4_0 and their kind,
    answers are prefixes as they are, and guesses are exact; prompts of thousands of tokens take longer.
    `max_prefill_tokens`: most prompt tokens of a step while any answer is being generated; on a quiet machine at least
    half of them, whatever time they take.
    `exact`: the same request gives the same text whatever else runs; answers are computed once more, while idle, before
    they are a prefix.
    `amx`: use the matrix unit of recent Xeons; off because compilers before GCC 13 miscompile its set-up and the
    process dies.
    `repack`: rearrange weights for this processor; without it, K-quants and IQ4_NL are exact as well, at another speed.
    `prefix_memory`: bytes of host memory for prefixes that streams no longer hold; None: an eighth of free memory at
    load; 0: none. `prefix_disk`: bytes on disk for those of all models of the store together; 0: nothing is written or
    read. `reencode`: a type that all weights get before they are loaded, or ``auto``: the one that suits this
    machine, found once in the background of a first load, as ``corral tune`` does.
    `guess`: compute tokens that may follow together with the next one, where that is faster: ``prompt`` takes them from
    prompt and answer, ``draft`` from the model's draft model, ``auto`` from either; ``off``: none. Only while texts
    stay as exact as `exact` asks.
    """

    num_ctx: int | None = None
    num_batch: int = 512
    num_parallel: int | None = None
    num_gpu: int = -1
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0
    flash_attention: bool | None = None
    row_attention: bool = False
    kv_cache_type: Literal["f16", "f32", "bf16", "q8_0", "q5_1", "q4_0"] = "f16"
    max_prefill_tokens: int = 64
    exact: bool = True
    amx: bool = False
    repack: bool = True
    prefix_memory: int | None = None
    prefix_disk: int = 4 * 1024**3
    reencode: Literal[
        "off", "auto", "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL"
    ] = "off"
    guess: Literal["off", "auto", "prompt", "draft"] = "auto"

    def __post_init__(self) -> None:
        """Raises `InvalidOption` for options that contradict each other, on every machine."""
        if self.flash_attention is False and self.quantized_cache:
            raise InvalidOption(
                f"kv_cache_type {self.kv_cache_type} needs flash attention, but flash_attention is false",
                "use kv_cache_type f16, or leave flash_attention unset",
            )
        if self.row_attention and self.flash_attention is False:
            raise InvalidOption(
                "row_attention needs flash attention, but flash_attention is false",
                "leave flash_attention unset, or row_attention",
            )
        if self.row_attention and self.kv_cache_type == "f32":
            raise InvalidOption(
                "row_attention needs keys of at most 16 bits, but kv_cache_type is f32",
                "use kv_cache_type f16, or leave row_attention unset",
            )

    @property
    def quantized_cache(self) -> bool:
        """Whether `kv_cache_type` is one that only flash attention computes with."""
        return self.kv_cache_type not in ("f16", "f32", "bf16")


def _match(model: Model, metadata: ModelMetadata | None, options: LlamaCppOptions) -> Match:
    if metadata is None or model.weights is None:
        return Match(score=0, reason="needs local GGUF weights")
    if metadata.format != "gguf":
        return Match(score=0, reason=f"runs GGUF only, not {metadata.format}")
    if metadata.architecture == "clip":
        return Match(score=0, reason="a projector is not a model of its own")
    if metadata.architecture not in ARCHITECTURES:
        reason = f"the llama.cpp of {REQUIREMENT} does not support the architecture {metadata.architecture!r}"
        return Match(score=-1, reason=reason)
    inexact = sorted(name for name in metadata.tensor_types if name not in _EXACT_TYPES)
    if inexact and options.repack:
        texts = f"texts may depend on what else runs ({', '.join(inexact)} weights)"
    else:
        texts = "texts do not depend on what else runs (measured at load)"
    return Match(score=100, reason=f"runs GGUF ({metadata.architecture}); {texts}")


def _estimate(record: StoredModel, metadata: ModelMetadata | None, options: LlamaCppOptions) -> Mapping[str, int]:
    """Weights, the KV cache of one request and the compute buffers. More streams are used only if they fit."""
    if metadata is None:
        return {}
    weights = sum(file.size_bytes for file in record.files if file.role in ("weights", "adapter"))
    if not options.exact and options.guess in ("auto", "draft"):
        weights += sum(file.size_bytes for file in record.files_of("draft")[:1])
    weights += sum(projector_bytes(file.size_bytes) for file in record.files_of("projector")[:1])
    context = options.num_ctx or DEFAULT_NUM_CTX
    if metadata.context_length:
        context = min(context, metadata.context_length)
    streams = max(1, options.num_parallel or 1)
    embeds_only = metadata.pooling not in (None, "none")
    batch = max(LARGEST_BATCH, context) if embeds_only else batch_tokens(options.num_batch, streams)
    by_row = options.row_attention or options.quantized_cache
    compute = compute_bytes(
        num_ctx=context,
        batch=batch,
        outputs=min(batch, streams * OUTPUTS_PER_STREAM),
        heads=_heads(metadata),
        vocabulary=0 if embeds_only else metadata.vocabulary_size or 32_000,
        width=metadata.embedding_length or 4096,
        windows=metadata.sliding_window is not None,
        flash_attention=embeds_only or (by_row if options.flash_attention is None else options.flash_attention),
    )
    return {"cpu": weights + kv_bytes(metadata, context * streams, options.kv_cache_type) + compute}


def _heads(metadata: ModelMetadata) -> int:
    """Attention heads of a layer; estimated from the width if the header lists them per layer."""
    heads = metadata.keys.get(f"{metadata.architecture}.attention.head_count")
    if isinstance(heads, int) and heads > 0:
        return heads
    return max(1, (metadata.embedding_length or 4096) // 64)


def _fits(loaded: Any, wanted: Any) -> bool:
    return options_fit(loaded, wanted, {"num_ctx": DEFAULT_NUM_CTX, "num_parallel": None})


SPEC = EngineSpec(
    name="llama-cpp",
    summary="GGUF models on CPU and GPU: continuous batching, shared prompt prefixes, exact texts",
    form="step",
    load="corral.adapters.engines.llama_cpp.loader:load",
    vocabulary="corral.adapters.engines.llama_cpp.loader:vocabulary",
    match=_match,
    estimate=_estimate,
    fits=_fits,
    runners=("process", "thread"),
    tasks=frozenset({"completion", "embedding", "rerank"}),
    takes="GGUF files of every architecture that llama.cpp supports",
    devices="corral.adapters.engines.llama_cpp.devices:devices",
    compare="corral.adapters.engines.llama_cpp.comparing.compare:compare",
    reencodings=(QuantizationType.Q8_0, QuantizationType.F16, QuantizationType.Q4_0),
    reencoding=lambda options: options.reencode,
    load_options=LlamaCppOptions,
    module="llama_cpp",
    requirement=REQUIREMENT,
    install_hint="pip install 'corral[llama-cpp]'",
    compiled=True,
    adapters=True,
)
