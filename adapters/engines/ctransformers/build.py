"""Builds a `CtransformersEngine` from a `LoadRequest`: checks the file, loads it, and tunes its threads."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from corral.adapters.converters.ctransformers.tokens import KEPT_PREFIX
from corral.adapters.engine_kit.thread_tuning import ThreadTuner, threads_for
from corral.adapters.engines.ctransformers.checks import check_gguf
from corral.adapters.engines.ctransformers.context import Context
from corral.adapters.engines.ctransformers.engine import CtransformersEngine
from corral.adapters.engines.ctransformers.native import NativeModel
from corral.adapters.engines.ctransformers.spec import (
    DEFAULT_NUM_CTX,
    REQUIREMENT,
    CtransformersOptions,
    cache_bytes_per_token,
)
from corral.adapters.engines.ctransformers.tokenizer import TextTokenizer, ggml_tokenizer, gguf_tokenizer
from corral.adapters.formats.ggml.file import read_ggml
from corral.adapters.formats.ggml.reader import GgmlReader
from corral.adapters.formats.gguf.vocabulary import read_vocabulary
from corral.core.errors import InvalidModelFile
from corral.core.models.model import ModelMetadata
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo, Task
from corral.core.random_access import RandomAccessFile
from corral.core.specs.engines import LoadRequest

__all__ = ("build_engine",)

_LARGEST_BATCH = 512  # llama's compute buffers are designed for this
_LEGACY_BATCH = 8
"""Other families size their buffers by an estimate, and a low one crashes the process: short pieces are safe."""
_FEATURES = frozenset({"exact", "prefix_cache", "tokenize", "logprobs", "constraints"})
_MODEL_TYPES = {"gpt_neox": "gptneox", "dolly": "dollyv2"}
"""Names that differ in ctransformers."""


class _Prepared(NamedTuple):
    """A file that was checked, and what is needed to load it."""

    metadata: ModelMetadata
    tokenizer: TextTokenizer
    model_type: str
    embeds: bool
    largest_batch: int


def build_engine(request: LoadRequest, on_progress: OnLoadProgress) -> CtransformersEngine:
    """Load one file. On failure, everything that was loaded is freed."""
    options = msgspec.convert(request.load_options, CtransformersOptions)
    path = next((file.path for file in request.files if file.role == "weights"), None)
    if path is None:
        raise InvalidModelFile(f"model {request.model!r} has no weights file")
    prepared = _prepare(Path(path))
    metadata = prepared.metadata
    on_progress(0.0)
    model = NativeModel(
        path,
        model_type=prepared.model_type,
        num_ctx=min(options.num_ctx or DEFAULT_NUM_CTX, metadata.context_length or DEFAULT_NUM_CTX),
        gpu_layers=max(0, options.num_gpu),
        use_mmap=options.use_mmap is not False,
    )
    with contextlib.ExitStack() as failed:
        failed.callback(model.close)
        num_ctx = model.num_ctx  # some types always use the context length in the file
        tuner = ThreadTuner(threads_for(options.num_thread), fixed=options.num_thread > 0)
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


def _prepare(path: Path) -> _Prepared:
    legacy = GgmlReader()
    with RandomAccessFile(path) as source:
        if legacy.recognises(source):
            file, metadata = read_ggml(source), legacy.read(source)
            model_type = _MODEL_TYPES.get(file.family, file.family)
            return _Prepared(metadata, ggml_tokenizer(file), model_type, False, _LEGACY_BATCH)
    metadata, table = check_gguf(path)
    tokenizer = gguf_tokenizer(str(path), read_vocabulary(path, prefix=KEPT_PREFIX) or table)
    return _Prepared(metadata, tokenizer, "gguf", True, _LARGEST_BATCH)


def _time_decode(model: NativeModel, threads: int) -> float:
    began = time.perf_counter()
    model.evaluate([0], 0, threads)
    return time.perf_counter() - began
