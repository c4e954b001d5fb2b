"""Builds a `CtransformersEngine` from a `LoadRequest`: the file is checked, loaded, and its threads are tuned."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import msgspec

from corral.adapters.converters.ctransformers.tokens import KEPT_PREFIX
from corral.adapters.engines.ctransformers.checks import check_gguf
from corral.adapters.engines.ctransformers.context import Context
from corral.adapters.engines.ctransformers.engine import CtransformersEngine
from corral.adapters.engines.ctransformers.native import NativeModel
from corral.adapters.engines.ctransformers.spec import DEFAULT_NUM_CTX, CtransformersOptions
from corral.adapters.engines.ctransformers.tokenizer import gguf_tokenizer
from corral.adapters.formats.gguf.vocabulary import read_vocabulary
from corral.adapters.thread_tuning import ThreadTuner, available_cpus
from corral.core.engines import LoadRequest
from corral.core.errors import InvalidModelFile
from corral.core.ports.inference import ModelInfo, OnLoadProgress

__all__ = ("build_engine",)

_LARGEST_BATCH = 512  # what its compute buffers are made for
_FEATURES = frozenset({"exact", "prefix_cache", "tokenize", "logprobs", "constraints"})


def build_engine(request: LoadRequest, on_progress: OnLoadProgress) -> CtransformersEngine:
    """Load one file. On any failure what was loaded is freed again."""
    options = msgspec.convert(request.load_options, CtransformersOptions)
    name = next((file.path for file in request.files if file.role == "weights"), None)
    if name is None:
        raise InvalidModelFile(f"model {request.model!r} has no weights file")
    path = Path(name)
    metadata, table = check_gguf(path)
    tokenizer = gguf_tokenizer(name, read_vocabulary(path, prefix=KEPT_PREFIX) or table)
    on_progress(0.0)
    num_ctx = min(options.num_ctx or DEFAULT_NUM_CTX, metadata.context_length or DEFAULT_NUM_CTX)
    model = NativeModel(
        name,
        model_type="gguf",
        num_ctx=num_ctx,
        gpu_layers=max(0, options.num_gpu),
        use_mmap=options.use_mmap is not False,
    )
    with contextlib.ExitStack() as failed:
        failed.callback(model.close)
        tuner = ThreadTuner(options.num_thread or available_cpus(), fixed=options.num_thread > 0)
        tuner.begin(lambda threads: _time_decode(model, threads))
        batch = max(1, min(options.num_batch, num_ctx, _LARGEST_BATCH))
        info = ModelInfo(
            tasks=frozenset({"completion", "embedding"}),
            features=_FEATURES,
            context_length=num_ctx,
            memory_bytes={"cpu": metadata.tensor_bytes + num_ctx * (metadata.kv_bytes_per_token or 0)},
            details={"engine": "ctransformers 0.2.27", "model type": "llama", "batch": str(batch)},
        )
        engine = CtransformersEngine(Context(model, tuner, batch=batch), tokenizer, info)
        failed.pop_all()
    on_progress(1.0)
    return engine


def _time_decode(model: NativeModel, threads: int) -> float:
    began = time.perf_counter()
    model.evaluate([0], 0, threads)
    return time.perf_counter() - began
