"""Builds an `OnnxEmbeddingsEngine`: opens folder, tokenizer and session, and measures the model."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from corral.adapters.engine_kit.thread_counts import threads_for
from corral.adapters.engines.onnx_embeddings.batching import Batcher
from corral.adapters.engines.onnx_embeddings.engine import OnnxEmbeddingsEngine
from corral.adapters.engines.onnx_embeddings.folder import open_folder
from corral.adapters.engines.onnx_embeddings.session import EncoderSession
from corral.adapters.engines.onnx_embeddings.spec import OnnxEmbeddingsOptions
from corral.adapters.engines.onnx_embeddings.tokenizer import EncoderTokenizer
from corral.core.errors import EngineError, InvalidModelFile, OutOfMemory
from corral.core.ports.runners import OnLoadProgress
from corral.core.ports.running import ModelInfo, Task
from corral.core.specs.engines import LoadRequest
from corral.core.values import Value

__all__ = ("build_engine",)

_log = logging.getLogger(__name__)

_STEP_S = 0.2  # how long a request may wait for another's batch, and a cancellation for its own batch
_PARALLEL = 64  # a request keeps nothing in memory but its own vectors
_USUAL_TOKENS = 512  # if no file says: memory grows with the square of a text's length
_PROBE_LENGTHS = (96, 24, 7, 3)


class _Probe(Value, frozen=True, kw_only=True):
    """`difference` is the greatest difference in any number of a vector between computing it alone and beside other
    texts.
    """

    dimensions: int
    tokens_per_s: float
    difference: float


def build_engine(request: LoadRequest, on_progress: OnLoadProgress) -> OnnxEmbeddingsEngine:
    """Blocking. Raises `InvalidModelFile`, `InvalidOption`, `OutOfMemory`, `LoadFailed`."""
    options = msgspec.convert(request.load_options, OnnxEmbeddingsOptions)
    folder = open_folder(request)
    tokenizer = EncoderTokenizer(folder.tokenizer, folder.vocabulary_size)
    limits = [limit for limit in (options.num_ctx, folder.max_tokens) if limit is not None]
    context_length = min(limits, default=_USUAL_TOKENS)
    on_progress(0.1)
    before = _resident_bytes()
    session = EncoderSession(
        folder, threads=threads_for(options.num_thread) if options.num_thread > 0 else 0, provider=options.provider
    )
    on_progress(0.9)
    pooling = "a classifier" if session.ranks else " + ".join(session.poolings) or "the graph's own"
    if session.poolings and not folder.poolings:
        pooling += " (assumed)"
        _log.warning("%s: no file states the pooling mode; using the mean of all tokens", request.model)
    try:
        probe = _probe(session, tokenizer, context_length, pairs=session.ranks)
    except OutOfMemory:
        raise
    except EngineError as error:
        raise InvalidModelFile(f"model {request.model!r} failed a test computation: {error}") from error
    if session.ranks and probe.dimensions != 1:
        raise InvalidModelFile(
            f"model {request.model!r} has {probe.dimensions} labels, but a reranker gives one score",
            "use a model that was made for reranking",
        )
    on_progress(1.0)
    task: Task = "rerank" if session.ranks else "embedding"
    return OnnxEmbeddingsEngine(
        session=session,
        tokenizer=tokenizer,
        batcher=Batcher(_STEP_S, probe.tokens_per_s),
        dimensions=probe.dimensions,
        info=ModelInfo(
            tasks=frozenset({task}),
            features=frozenset({"tokenize"} | ({"exact"} if probe.difference == 0 else set())),
            context_length=context_length,
            parallel=_PARALLEL,
            memory_bytes={"cpu": max(folder.weights_bytes, _resident_bytes() - before)},
            process_id=os.getpid(),
            details={
                "pooling": pooling,
                "normalised": "yes" if folder.normalise else "no",
                "provider": session.provider.removesuffix("ExecutionProvider"),
                "dimensions": str(probe.dimensions),
                "exact": _told(probe.difference),
            },
        ),
    )


def _resident_bytes() -> int:
    """The memory of this process, 0 if unknown: quantized weights may or may not be unpacked."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _probe(session: EncoderSession, tokenizer: EncoderTokenizer, limit: int, *, pairs: bool) -> _Probe:
    """Compute a few texts, or `pairs` of them, alone and together. Raises `InvalidModelFile` if the vectors are
    invalid.
    """
    texts = [_text(tokenizer, min(length, limit)) for length in _PROBE_LENGTHS]
    borders: list[int] | None = None
    if pairs:
        made = [tokenizer.pair(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts]
        texts, borders = [ids[:limit] for ids, _ in made], [second for _, second in made]
    together = session.vectors(texts, borders)  # the first run is slow, since it allocates memory
    began = time.perf_counter()
    alone = [session.vectors([text], borders and [borders[place]])[0] for place, text in enumerate(texts)]
    seconds = time.perf_counter() - began
    if any(vector.ndim != 1 or vector.shape != alone[0].shape or not vector.size for vector in alone):
        raise InvalidModelFile("the model does not return one vector of numbers per text")
    return _Probe(
        dimensions=alone[0].size,
        tokens_per_s=sum(map(len, texts)) / max(seconds, 1e-6),
        difference=max(float(np.abs(one - other).max()) for one, other in zip(alone, together, strict=True)),
    )


def _text(tokenizer: EncoderTokenizer, length: int) -> Sequence[int]:
    """Arbitrary ids: only the arithmetic matters."""
    return [(7919 * place + 31 * length) % tokenizer.vocabulary_size for place in range(length)]


def _told(difference: float) -> str:
    if difference == 0:
        return "a text gets the same vector, bit for bit, alone and in a batch (measured at load)"
    return f"batching changes a vector's numbers by {difference:.0e} at most (measured at load)"
