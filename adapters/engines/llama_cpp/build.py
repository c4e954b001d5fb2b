"""Builds a `LlamaCppEngine` from a `LoadRequest`: weights, streams, and abilities that are found by trying."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

import llama_cpp as C
import msgspec

from corral.adapters.engine_kit.thread_tuning import ThreadTuner, threads_for
from corral.adapters.engines.llama_cpp.batching import Completions
from corral.adapters.engines.llama_cpp.embedding import LlamaEmbedder
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.exactness import Exactness, exactness_of
from corral.adapters.engines.llama_cpp.guess_opening import open_guessing
from corral.adapters.engines.llama_cpp.image_encoder import open_encoder
from corral.adapters.engines.llama_cpp.memory_needs import (
    KV_BYTES_PER_VALUE,
    LARGEST_BATCH,
    SMALLEST_BATCH,
    batch_tokens,
    compute_bytes,
    projector_bytes,
)
from corral.adapters.engines.llama_cpp.native import LlamaContext, LlamaModel, supports_gpu
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_log import collect_log
from corral.adapters.engines.llama_cpp.no_amx import avoid_amx
from corral.adapters.engines.llama_cpp.prefix_opening import open_prefix_cache
from corral.adapters.engines.llama_cpp.prefix_tiers import PrefixTiers
from corral.adapters.engines.llama_cpp.spec import DEFAULT_NUM_CTX, LlamaCppOptions
from corral.adapters.engines.llama_cpp.step_computation import Computation
from corral.adapters.engines.llama_cpp.streams import Streams
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.adapters.engines.llama_cpp.trial_decodes import can_trim, time_decode
from corral.adapters.system.memory import free_memory
from corral.core.errors import InvalidModelFile, InvalidOption, OutOfMemory
from corral.core.models.model import FileRole
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo
from corral.core.specs.engines import LoadRequest

__all__ = ("build_engine",)

_MAX_STREAMS = 256  # LLAMA_MAX_SEQ
_INPUTS_AT_ONCE = 8
_FLASH_OFF, _FLASH_ON, _FLASH_AUTO = 0, 1, -1


def build_engine(request: LoadRequest, on_progress: OnLoadProgress) -> LlamaCppEngine:
    """Load the weights and everything around them. On failure, everything that was loaded is freed."""
    options = msgspec.convert(request.load_options, LlamaCppOptions)
    files = {file.role: file.path for file in reversed(request.files)}  # the first of each role
    path = files.get("weights")
    if path is None:
        raise InvalidModelFile(f"model {request.model!r} has no weights file")
    collect_log()
    gpu = supports_gpu() and options.num_gpu != 0
    layers = options.num_gpu if options.num_gpu >= 0 else 999
    C.llama_backend_init()
    if not options.amx:
        avoid_amx()
    model = LlamaModel(
        path,
        gpu_layers=layers if gpu else 0,
        main_gpu=options.main_gpu,
        use_mmap=options.use_mmap,
        on_progress=on_progress,
    )
    with contextlib.ExitStack() as failed:
        failed.callback(model.close)
        builder = _Builder(model, options, gpu=gpu, files=files)
        engine = builder.build(failed, on_progress)
        failed.pop_all()
    return engine


class _Builder:
    """The decisions of one load."""

    def __init__(
        self, model: LlamaModel, options: LlamaCppOptions, *, gpu: bool, files: Mapping[FileRole, str]
    ) -> None:
        self._model, self._files = model, files
        self._projector = files.get("projector")
        self._options, self._gpu, self._blind, self._guess_bytes = options, gpu, "", 0
        trained = model.trained_context or DEFAULT_NUM_CTX
        self._num_ctx = max(4, min(options.num_ctx or DEFAULT_NUM_CTX, trained))
        self._threads = threads_for(options.num_thread)
        self._chunk = max(SMALLEST_BATCH, min(options.num_batch, LARGEST_BATCH))
        self._control_tokens: tuple[str, ...] = ()
        architecture = model.metadata("general.architecture") or ""
        self._pooling = model.metadata(f"{architecture}.pooling_type")
        causal = model.metadata(f"{architecture}.attention.causal") != "false"
        self._generates = model.has_decoder and causal and self._pooling in (None, "0")

    def build(self, failed: contextlib.ExitStack, on_progress: OnLoadProgress) -> LlamaCppEngine:
        model, options = self._model, self._options
        tokenizer = LlamaTokenizer(model)
        batch = Batch(max(self._chunk, _MAX_STREAMS))
        tuner = ThreadTuner(self._threads, fixed=options.num_thread > 0, on_cpu=not self._gpu)

        def embedder(piece: Callable[[int], int] | None) -> LlamaEmbedder:
            return LlamaEmbedder(
                self._embedding_context,
                tokenizer,
                limit=self._num_ctx,
                inputs_at_once=1 if self._generates and options.exact else _INPUTS_AT_ONCE,
                tuner=tuner,
                piece=piece,
            )

        self._control_tokens = tokenizer.control_tokens()
        features = {"tokenize", "batch"}
        if not self._generates:
            info = self._info({"embedding"}, features, 0, {"exact": "it is an embedding model"}, tokenizer)
            vectors = embedder(None)
            return LlamaCppEngine(model=model, completions=None, embedder=vectors, tokenizer=tokenizer, info=info)
        count = self._stream_count()
        context = self._context(count)
        failed.callback(context.close)
        on_progress(1.0)  # again and again: each trial takes long if the model is large, and is no stall
        context.set_threads(tuner.begin(lambda threads: time_decode(context, batch, threads)))
        trimmable = can_trim(context, batch)
        can_shift = trimmable and context.can_shift
        on_progress(1.0)
        exactness = self._exactness(context, batch, count, trimmable=trimmable)
        on_progress(1.0)
        guessing, no_guesses = open_guessing(
            options, context, batch, exactness, self._files, streams=count, trimmable=trimmable, on_progress=on_progress
        )
        features |= {"prefix_cache", "logprobs", "seed", "constraints"}
        if guessing is not None:
            failed.callback(guessing.close)
            self._guess_bytes = guessing.size_bytes
        encoder = None
        if self._projector is not None:
            encoder, self._blind = open_encoder(self._projector, model, gpu=self._gpu, threads=self._threads)
        if encoder is not None:
            failed.callback(encoder.close)
        abilities = {"shift": can_shift, "exact": exactness.exact, "images": encoder is not None}
        features |= {name for name, has in abilities.items() if has}
        streams = Streams(context, count, trimmable=trimmable)
        computation = Computation(
            context=context,
            streams=streams,
            batch=batch,
            tuner=tuner,
            max_prefill_tokens=max(4, min(options.max_prefill_tokens, self._chunk)),
            largest_chunk=self._chunk,
            exactness=exactness,
            guessing=guessing,
        )
        completions = Completions(
            model=model,
            context=context,
            tokenizer=tokenizer,
            streams=streams,
            tiers=PrefixTiers(streams, context, open_prefix_cache(options, divisible=trimmable)),
            computation=computation,
            encoder=encoder,
            can_shift=can_shift,
            exact=exactness.exact,
        )

        # If the size of a piece changes the numbers, it is fixed, so that a text always has the same vector.
        one_size = options.exact and not exactness.exact

        def piece(remaining: int) -> int:
            return computation.chunk(remaining, computation.budget(answering=one_size or completions.busy))

        told = {"exact": exactness.told, "guesses": no_guesses if guessing is None else guessing.told}
        info = self._info({"completion", "embedding"}, features, count, told, tokenizer)
        return LlamaCppEngine(
            model=model,
            completions=completions,
            embedder=embedder(piece),
            tokenizer=tokenizer,
            info=info,
            encoder=encoder,
            guessing=guessing,
        )

    def _flash_attention(self) -> int:
        options = self._options
        quantized = options.kv_cache_type not in ("f16", "f32", "bf16")
        if quantized and options.flash_attention is False:
            raise InvalidOption(
                f"kv_cache_type {options.kv_cache_type} needs flash attention, which is disabled",
                "use kv_cache_type f16, or leave flash_attention unset",
            )
        if options.flash_attention is not None:
            return _FLASH_ON if options.flash_attention else _FLASH_OFF
        if self._gpu:
            return _FLASH_AUTO
        return _FLASH_ON if quantized else _FLASH_OFF

    def _kv_bytes(self, tokens: int) -> int:
        return int(tokens * self._model.kv_values_per_token * KV_BYTES_PER_VALUE[self._options.kv_cache_type])

    def _stream_count(self) -> int:
        if self._options.num_parallel and self._options.num_parallel > 0:
            return min(self._options.num_parallel, _MAX_STREAMS)
        available = min(free_memory().values(), default=0) // 4
        fitting = (count for count in (8, 4, 2) if self._kv_bytes(self._num_ctx * count) <= available)
        return next(fitting, 1)

    def _context(self, streams: int) -> LlamaContext:
        return LlamaContext(
            self._model,
            num_ctx=self._num_ctx,
            streams=streams,
            batch=batch_tokens(self._options.num_batch, streams),
            threads=self._threads,
            flash_attention=self._flash_attention(),
            kv_cache_type=self._options.kv_cache_type,
        )

    def _embedding_context(self) -> LlamaContext:
        kind = int(self._pooling or C.LLAMA_POOLING_TYPE_NONE) or C.LLAMA_POOLING_TYPE_LAST
        # Pooling over all tokens needs them in one batch; the last token alone does not.
        whole = kind != C.LLAMA_POOLING_TYPE_LAST
        batch = max(LARGEST_BATCH, self._num_ctx if whole else 0)
        flash_attention = _FLASH_OFF if self._generates and self._options.exact else _FLASH_AUTO
        self._require_memory(batch, flash=flash_attention != _FLASH_OFF)
        return LlamaContext(
            self._model,
            num_ctx=self._num_ctx,
            streams=_INPUTS_AT_ONCE,
            batch=batch,
            threads=self._threads,
            flash_attention=flash_attention,
            kv_cache_type="f16",
            pooling=kind,
            unified=True,
        )

    def _require_memory(self, batch: int, *, flash: bool) -> None:
        """Check the memory before the context for embeddings is created: estimates for models that generate text do not
        include it.
        """
        free = free_memory().get("cpu")
        model = self._model
        needed = int(self._num_ctx * model.kv_values_per_token * KV_BYTES_PER_VALUE["f16"])
        needed += self._compute_bytes(batch, flash=flash)
        if not self._gpu and free is not None and needed > free:
            raise OutOfMemory(
                f"embeddings of up to {self._num_ctx} tokens need about {needed >> 20} MiB more memory, but only "
                f"{free >> 20} MiB is free",
                "lower num_ctx, or free memory",
            )

    def _compute_bytes(self, batch: int, *, flash: bool) -> int:
        return compute_bytes(
            num_ctx=self._num_ctx,
            batch=batch,
            heads=self._model.heads,
            vocabulary=self._model.vocabulary_size if self._generates else 0,
            width=self._model.embedding_size,
            windows=False,
            flash_attention=flash,
        )

    def _memory_bytes(self, streams: int) -> int:
        """Weights, KV cache and compute buffers, without the context for embeddings, which is created when it is
        needed.
        """
        if not streams:
            return self._model.size_bytes
        flash = self._flash_attention() != _FLASH_OFF
        compute = self._compute_bytes(batch_tokens(self._options.num_batch, streams), flash=flash)
        projector = os.path.getsize(self._projector) if self._projector and not self._blind else 0
        weights = self._model.size_bytes + self._guess_bytes + projector_bytes(projector)
        return weights + self._kv_bytes(self._num_ctx * streams) + compute

    def _exactness(self, context: LlamaContext, batch: Batch, streams: int, *, trimmable: bool) -> Exactness:
        flash = self._flash_attention() != _FLASH_OFF
        return exactness_of(context, batch, streams, wanted=self._options.exact, flash=flash, trimmable=trimmable)

    def _info(
        self, tasks: set[str], features: set[str], streams: int, told: dict[str, str], tokenizer: LlamaTokenizer
    ) -> ModelInfo:
        return ModelInfo(
            tasks=frozenset(tasks),
            features=frozenset(features),
            control_tokens=self._control_tokens,
            context_length=self._num_ctx,
            parallel=max(1, streams),
            longest_token_bytes=tokenizer.longest_token_bytes,
            memory_bytes={"gpu" if self._gpu else "cpu": self._memory_bytes(streams)},
            details={
                "weights": self._model.description,
                "streams": f"{streams} x {self._num_ctx} tokens",
                **told,
                "threads": str(self._threads) if self._options.num_thread > 0 else f"up to {self._threads}",
            }
            | ({"images": self._blind} if self._blind else {}),
        )
