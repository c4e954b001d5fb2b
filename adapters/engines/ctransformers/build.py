"""Builds a `CtransformersEngine` from a `LoadRequest`: checks the file, loads it, and tunes its threads."""

from __future__ import annotations

import contextlib
import time

import msgspec

from corral.adapters.engine_kit.thread_counts import most_threads
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.ctransformers.context import Context
from corral.adapters.engines.ctransformers.engine import CtransformersEngine
from corral.adapters.engines.ctransformers.native import NativeModel
from corral.adapters.engines.ctransformers.prepared import prepare, weights_path
from corral.adapters.engines.ctransformers.spec import (
    DEFAULT_NUM_CTX,
    REQUIREMENT,
    CtransformersOptions,
    cache_bytes_per_token,
)
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo, Task
from corral.core.specs.engines import LoadRequest

__all__ = ("build_engine",)

_FEATURES = frozenset({"exact", "prefix_cache", "tokenize", "logprobs", "constraints"})


def build_engine(request: LoadRequest, on_progress: OnLoadProgress) -> CtransformersEngine:
    """Load one file. On failure, everything that was loaded is freed."""
    options = msgspec.convert(request.load_options, CtransformersOptions)
    path = weights_path(request)
    prepared = prepare(path)
    metadata = prepared.metadata
    on_progress(0.0)
    model = NativeModel(
        str(path),
        model_type=prepared.model_type,
        num_ctx=min(options.num_ctx or DEFAULT_NUM_CTX, metadata.context_length or DEFAULT_NUM_CTX),
        gpu_layers=max(0, options.num_gpu),
        use_mmap=options.use_mmap is not False,
    )
    with contextlib.ExitStack() as failed:
        failed.callback(model.close)
        num_ctx = model.num_ctx  # some types always use the context length in the file
        tuner = ThreadTuner(most_threads(options.num_thread))
        model.evaluate([0], 0, tuner.threads)
        tuner.begin(lambda threads: _time_decode(model, threads))
        batch = max(1, min(options.num_batch, num_ctx, prepared.largest_batch))
        embedding: frozenset[Task] = frozenset({"embedding"} if prepared.embeds else ())
        info = ModelInfo(
            tasks=frozenset({"completion"}) | embedding,
            features=_FEATURES,
            context_length=num_ctx,
            longest_token_bytes=prepared.tokenizer.longest_token_bytes,
            memory_bytes={"cpu": metadata.tensor_bytes + num_ctx * cache_bytes_per_token(metadata)},
            details={"engine": REQUIREMENT, "model type": metadata.architecture, "batch": str(batch)},
        )
        engine = CtransformersEngine(Context(model, tuner, batch=batch), prepared.tokenizer, info)
        failed.pop_all()
    on_progress(1.0)
    return engine


def _time_decode(model: NativeModel, threads: int) -> float:
    began = time.perf_counter()
    model.evaluate([0], 0, threads)
    return time.perf_counter() - began
