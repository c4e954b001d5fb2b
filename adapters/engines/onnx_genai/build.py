"""Builds an `OnnxGenaiEngine` from a `LoadRequest`, and chooses what the options leave open."""

from __future__ import annotations

import os

import msgspec

from corral.adapters.engine_kit.thread_counts import threads_for
from corral.adapters.engines.onnx_genai.continuations import Continuations
from corral.adapters.engines.onnx_genai.engine import OnnxGenaiEngine
from corral.adapters.engines.onnx_genai.folder import ModelFolder, open_folder
from corral.adapters.engines.onnx_genai.native import GenAiModel
from corral.adapters.engines.onnx_genai.spec import DEFAULT_NUM_CTX, OnnxGenaiOptions
from corral.adapters.engines.onnx_genai.tokenizer import tokenizer_of
from corral.adapters.system.memory import free_memory
from corral.core.errors import EngineError, InvalidModelFile, OutOfMemory
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo
from corral.core.specs.engines import LoadRequest

__all__ = ("build_engine",)

_KV_VALUE_BYTES = 4
_FEATURES = {"constraints", "exact", "logprobs", "seed", "tokenize"}


def build_engine(request: LoadRequest, on_progress: OnLoadProgress) -> OnnxGenaiEngine:
    """Load the folder's model.

    After the tokenizer, `on_progress` is not called until the end: the library reports nothing.
    """
    options = msgspec.convert(request.load_options, OnnxGenaiOptions)
    folder = open_folder(request)
    tokenizer = tokenizer_of(folder)
    on_progress(0.1)
    threads = threads_for(options.num_thread)
    model = GenAiModel(folder, threads=threads, provider=options.provider, provider_options=options.provider_options)
    num_ctx = max(4, min(options.num_ctx or DEFAULT_NUM_CTX, folder.context_length))
    parallel = _parallel(options, folder, num_ctx)
    piece = max(4, options.max_prefill_tokens)
    continuations = Continuations(model, count=parallel, max_length=num_ctx, piece=piece)
    rewinds = _try(continuations, folder, tokenizer.size)
    on_progress(1.0)
    return OnnxGenaiEngine(
        continuations=continuations,
        tokenizer=tokenizer,
        info=_info(
            model,
            folder,
            num_ctx=num_ctx,
            parallel=parallel,
            threads=threads,
            rewinds=rewinds,
            longest_token_bytes=tokenizer.longest_token_bytes,
        ),
        num_ctx=num_ctx,
        piece=piece,
    )


def _try(continuations: Continuations, folder: ModelFolder, vocabulary_size: int) -> bool:
    """Compute a few tokens, since some defects of a folder show only then. Return whether memory can be rewound."""
    prompt = [0, 0, 0, 0]
    try:
        continuation = continuations.take(prompt)
        continuation.append(prompt)
        logits = continuation.logits()
    except EngineError as error:
        if isinstance(error, OutOfMemory):
            raise
        raise InvalidModelFile(f"model {folder.model!r} failed a test computation: {error}") from error
    if len(logits) < vocabulary_size:
        raise InvalidModelFile(
            f"model {folder.model!r} gives {len(logits)} logits, but its tokenizer has {vocabulary_size} tokens"
        )
    try:
        continuation.rewind(0)
    except EngineError:
        continuations.drop()
        return False
    continuations.give_back(continuation, ())
    return True


def _info(
    model: GenAiModel,
    folder: ModelFolder,
    *,
    num_ctx: int,
    parallel: int,
    threads: int,
    rewinds: bool,
    longest_token_bytes: int | None,
) -> ModelInfo:
    kv_bytes = _KV_VALUE_BYTES * folder.kv_values_per_token * num_ctx * parallel
    details = {
        "weights": folder.model_type,
        "streams": f"{parallel} x {num_ctx} tokens, computed one after the other, not in a batch",
        "threads": str(threads),
        "exact": "yes: each request is computed separately, and prompts in pieces of equal length",
        "when full": "no context shift: an answer ends when the context is full",
    }
    if folder.adapters:
        details["adapters"] = ", ".join(os.path.basename(path) for path in folder.adapters)
    return ModelInfo(
        tasks=frozenset({"completion"}),
        features=frozenset(_FEATURES | ({"prefix_cache"} if rewinds else set())),
        context_length=num_ctx,
        longest_token_bytes=longest_token_bytes,
        parallel=parallel,
        memory_bytes={model.device: folder.weights_bytes + kv_bytes},
        details=details,
    )


def _parallel(options: OnnxGenaiOptions, folder: ModelFolder, num_ctx: int) -> int:
    if options.num_parallel and options.num_parallel > 0:
        return options.num_parallel
    available = min(free_memory().values(), default=0) // 4
    one = _KV_VALUE_BYTES * folder.kv_values_per_token * num_ctx
    return next((count for count in (8, 4, 2) if one * count <= available), 1)
