"""The entry points: loading, which rejects unsupported versions of ctransformers, and device discovery."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata as distributions

from corral.adapters.engines.ctransformers.spec import REQUIREMENT, SPEC, VERSION
from corral.adapters.system.memory import free_memory
from corral.core.errors import EngineNotInstalled
from corral.core.ports.engines import GeneratorEngine
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import Device, LoadRequest
from corral.core.wording.pip_lines import install_line

__all__ = ("devices", "load")


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
