"""What the fake engine is, which models it runs, and how it is loaded."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping

import msgspec

from corral.adapters.engine_kit.vocabulary_engine import VocabularyEngine
from corral.adapters.engines.fake.engine import FakeEngine
from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.adapters.engines.fake.tokenizer import FakeTokenizer
from corral.core.errors import LoadFailed
from corral.core.models.model import Model, ModelMetadata, StoredModel
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import EngineSpec, LoadRequest, Match

__all__ = ("SPEC", "load", "vocabulary")


def load(request: LoadRequest, on_progress: OnLoadProgress) -> FakeEngine:
    """Load nothing, as slowly and with the failures that the options request. Raises `LoadFailed` if they say so."""
    options = msgspec.convert(request.load_options, FakeLoadOptions)
    on_progress(0.0)
    while options.hang_on_load:
        time.sleep(3600)
    time.sleep(options.load_delay_s)
    if options.crash_on_load:
        os.kill(os.getpid(), signal.SIGKILL)
    if options.fail_on_load is not None:
        raise LoadFailed(f"{request.model}: {options.fail_on_load}")
    on_progress(1.0)
    return FakeEngine(options)


def vocabulary(request: LoadRequest, on_progress: OnLoadProgress) -> VocabularyEngine:
    """The tokenizer of every fake model."""
    return VocabularyEngine(FakeTokenizer())


def _match(model: Model, metadata: ModelMetadata | None, options: FakeLoadOptions) -> Match:
    if model.format == "fake":
        return Match(score=100, reason="the manifest's format is fake")
    return Match(score=-1, reason="made-up text; runs only if you name it")


def _estimate(record: StoredModel, metadata: ModelMetadata | None, options: FakeLoadOptions) -> Mapping[str, int]:
    return {"cpu": options.memory_bytes}


def _fits(loaded: FakeLoadOptions, wanted: FakeLoadOptions) -> bool:
    same = msgspec.structs.replace(wanted, num_ctx=loaded.num_ctx)
    return same == loaded and wanted.num_ctx <= loaded.num_ctx


SPEC = EngineSpec(
    name="fake",
    summary="made-up text without weights, for tests and experiments",
    form="step",
    load="corral.adapters.engines.fake:load",
    vocabulary="corral.adapters.engines.fake.spec:vocabulary",
    match=_match,
    estimate=_estimate,
    runners=("process", "thread"),
    tasks=frozenset({"completion", "embedding", "rerank"}),
    load_options=FakeLoadOptions,
    fits=_fits,
)
