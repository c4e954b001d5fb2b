"""The job that compares two GGUF models: loads both, and measures divergence, then speed. For a process of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import llama_cpp as C

from corral.adapters.engine_kit.thread_counts import threads_for
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.comparing.divergence import (
    CHUNK_TOKENS,
    Divergence,
    chunks_of,
    measure_divergence,
)
from corral.adapters.engines.llama_cpp.comparing.speeds import STREAM_TOKENS, STREAMS, Racer, Speeds, race
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.native_context import ContextParams, ContextSize
from corral.adapters.engines.llama_cpp.native_log import collect_log
from corral.adapters.engines.llama_cpp.native_model import LlamaModel, supports_gpu
from corral.adapters.engines.llama_cpp.no_amx import avoid_amx
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.adapters.engines.llama_cpp.trial_decodes import time_decode
from corral.core.errors import InvalidRequest, NotFound, Unsupported
from corral.core.ports.runners import OnLoadProgress
from corral.core.requests.prompts import TextPart
from corral.core.specs.comparisons import CompareRequest, Comparison, ModelFigures
from corral.core.specs.engines import LocalFile

__all__ = ("compare", "sample_text")

_FEWEST_TOKENS = 32
_LOADED, _DIVERGED = 0.1, 0.7  # the share that is done after each part
_HOPELESS = 3.0  # times the divergence that is enough


def sample_text() -> str:
    """The text that ships with Corral: prose, code, dialogue, lists and tables in several languages."""
    return resources.files(__package__).joinpath("sample.txt").read_text("utf-8")


def compare(request: CompareRequest, on_progress: OnLoadProgress) -> Comparison:
    """Both models are in memory at once. Raises `InvalidRequest` for models whose vocabularies differ and for a text
    that is too short, `NotFound`, `Unsupported` for a model that generates no text, and what loading raises."""
    text = sample_text() if request.text is None else _read(Path(request.text))
    collect_log()
    C.llama_backend_init()
    avoid_amx()
    with ExitStack() as opened:
        models = []
        for file, adapters in (
            (request.reference, request.reference_adapters),
            (request.candidate, request.candidate_adapters),
        ):
            models.append(_load(file, adapters, opened))
            on_progress(_LOADED * len(models) / 2)
        chunks = _chunks(models, text)
        wholes = [_context(model, opened, streams=1, tokens=len(chunks[0])) for model in models]
        batch = Batch(2)  # threads that wait for each other are very slow on a busy machine
        threads = ThreadTuner(threads_for(0)).begin(lambda count: time_decode(wholes[0], batch, count))
        for whole in wholes:
            whole.set_threads(threads)

        def on_chunk(found: Divergence, share: float) -> bool:
            on_progress(_LOADED + (_DIVERGED - _LOADED) * share)
            return request.enough_kl is None or found.kl / found.positions <= _HOPELESS * request.enough_kl

        found = measure_divergence(wholes[0], wholes[1], chunks, on_chunk)
        kl = max(0.0, found.kl / found.positions)
        speeds: list[Speeds | None] = [None, None]
        if request.speed and (request.enough_kl is None or kl <= request.enough_kl):
            shared = [_context(model, opened, streams=STREAMS, tokens=STREAM_TOKENS) for model in models]
            for one in shared:
                one.set_threads(threads)
            racers = [Racer(whole, eight) for whole, eight in zip(wholes, shared, strict=True)]
            speeds = [*race(racers, lambda share: on_progress(_DIVERGED + (1 - _DIVERGED) * share))]
        on_progress(1.0)
        return Comparison(
            reference=_figures(models[0], found.reference_nll / found.positions, speeds[0]),
            candidate=_figures(models[1], found.candidate_nll / found.positions, speeds[1]),
            kl_divergence=kl,
            same_top=found.same_top / found.positions,
            positions=found.positions,
        )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"there is no text {path}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is no text in UTF-8: {error}") from error
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from error


def _load(file: LocalFile, adapters: Sequence[LocalFile], opened: ExitStack) -> LlamaModel:
    model = LlamaModel(
        file.path,
        gpu_layers=999 if supports_gpu() else 0,
        main_gpu=None,
        use_mmap=None,
        adapters=adapters,
        on_progress=lambda share: None,
    )
    opened.callback(model.close)
    if not model.has_decoder or model.metadata(f"{model.metadata('general.architecture')}.attention.causal") == "false":
        raise Unsupported(f"{file.name or 'the model'} generates no text, so that there is nothing to compare")
    return model


def _context(model: LlamaModel, opened: ExitStack, *, streams: int, tokens: int) -> LlamaContext:
    gpu = supports_gpu()
    params = ContextParams(batch=max(tokens, streams), flash_attention=-1 if gpu else 0, kv_cache_type="f16", gpu=gpu)
    context = LlamaContext(model, params, ContextSize(streams, tokens), threads=threads_for(0))
    opened.callback(context.close)
    return context


def _chunks(models: list[LlamaModel], text: str) -> list[list[int]]:
    """Raises `InvalidRequest` unless both models read the text as the same tokens, and these are enough."""
    tokens, others = (LlamaTokenizer(model).encode([(TextPart(text=text),)])[0] for model in models)
    if tokens != others or models[0].vocabulary_size != models[1].vocabulary_size:
        raise InvalidRequest(
            "the two models have different vocabularies, so that their predictions cannot be compared",
            "compare two versions of the same model",
        )
    if len(tokens) < _FEWEST_TOKENS:
        raise InvalidRequest(
            f"the text has {len(tokens)} tokens, and a comparison needs at least {_FEWEST_TOKENS}",
            "a few thousand are a good length",
        )
    trained = min(model.trained_context or CHUNK_TOKENS for model in models)
    bos = C.llama_vocab_bos(models[0].vocab) if C.llama_vocab_get_add_bos(models[0].vocab) else None
    return chunks_of(tokens, min(CHUNK_TOKENS, len(tokens), trained), bos)


def _figures(model: LlamaModel, nll: float, speeds: Speeds | None) -> ModelFigures:
    figures = ModelFigures(perplexity=math.exp(min(nll, 700.0)), weights_bytes=model.size_bytes)
    if speeds is None:
        return figures
    return ModelFigures(
        perplexity=figures.perplexity,
        weights_bytes=figures.weights_bytes,
        prompt_per_s=speeds.prompt,
        decode_per_s=speeds.decode,
        eight_per_s=speeds.eight,
        exact=speeds.exact,
    )
