"""The entry point of loading: refuses other versions of ctransformers by name before anything native is imported."""

from __future__ import annotations

import os
from importlib import metadata as distributions

from corral.adapters.engines.ctransformers.spec import REQUIREMENT, SPEC, VERSION
from corral.core.engines import LoadRequest
from corral.core.errors import EngineNotInstalled
from corral.core.ports.inference import GeneratorEngine, OnLoadProgress

__all__ = ("load",)


def load(request: LoadRequest, on_progress: OnLoadProgress) -> GeneratorEngine:
    """The engine of one file. Blocking; called in the process that will own it.

    Raises `EngineNotInstalled`, `InvalidModelFile`, `LoadFailed`.
    """
    try:
        found = distributions.version("ctransformers")
    except distributions.PackageNotFoundError:
        found = "none"
    if found != VERSION:
        raise EngineNotInstalled(f"the ctransformers engine needs {REQUIREMENT}, found {found}", SPEC.install_hint)
    # Its package imports huggingface_hub, which is to connect to nothing.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

    from corral.adapters.engines.ctransformers.build import build_engine

    return build_engine(request, on_progress)
