"""The entry points: loading, which rejects unsupported versions of ctransformers, the vocabulary, and devices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata as distributions

from corral.adapters.engines.ctransformers.spec import REQUIREMENT, SPEC, VERSION
from corral.adapters.system.memory import free_memory
from corral.core.errors import EngineNotInstalled
from corral.core.ports.engines import Engine, GeneratorEngine
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import Device, LoadRequest
from corral.core.wording.pip_lines import install_line

__all__ = ("devices", "load", "vocabulary")


def vocabulary(request: LoadRequest, on_progress: OnLoadProgress) -> Engine:
    """Read the vocabulary of one file, which needs nothing native. Raises `InvalidModelFile`."""
    from corral.adapters.engine_kit.vocabulary_engine import VocabularyEngine
    from corral.adapters.engines.ctransformers.prepared import prepare, weights_path

    tokenizer = prepare(weights_path(request)).tokenizer
    return VocabularyEngine(tokenizer, longest_token_bytes=tokenizer.longest_token_bytes)


def load(request: LoadRequest, on_progress: OnLoadProgress) -> GeneratorEngine:
    """Load the engine of one file. Blocking; called in the process that will own it.

    Raises `EngineNotInstalled`, `InvalidModelFile`, `LoadFailed`.
    """
    try:
        found = distributions.version("ctransformers")
    except distributions.PackageNotFoundError:
        found = "none"
    if found != VERSION:
        raise EngineNotInstalled(f"the ctransformers engine needs {REQUIREMENT}, found {found}", install_line(SPEC))
    # The package imports huggingface_hub, which must not connect to anything.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

    from corral.adapters.engines.ctransformers.build import build_engine

    return build_engine(request, on_progress)


def devices() -> Sequence[Device]:
    """The processor. Whether the CUDA libraries work is known only when layers are moved to a GPU (`num_gpu`)."""
    return (Device(kind="cpu", name="CPU", free_bytes=free_memory().get("cpu")),)
