"""The entry points: loading and looking for devices. Other versions are refused before anything native is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata as distributions

from corral.adapters.engines.onnx_genai.spec import REQUIREMENT, SPEC, VERSION
from corral.core.engines import Device, LoadRequest
from corral.core.errors import EngineNotInstalled
from corral.core.ports.inference import OnLoadProgress, StepEngine

__all__ = ("devices", "load")

# The package for CPUs, and those with other execution providers: all bring the same module.
_DISTRIBUTIONS = ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml")


def load(request: LoadRequest, on_progress: OnLoadProgress) -> StepEngine:
    """The engine of one model folder. Blocking, and it holds the GIL for long: only for a process of its own.

    Raises `EngineNotInstalled`, `InvalidModelFile`, `InvalidOption`, `OutOfMemory`, `LoadFailed`.
    """
    _prepare()
    from corral.adapters.engines.onnx_genai.build import build_engine

    return build_engine(request, on_progress)


def devices() -> Sequence[Device]:
    """The CPU, and the execution providers that are there. Raises `EngineNotInstalled`."""
    _prepare()
    from corral.adapters.engines.onnx_genai.native import find_devices

    return find_devices()


def _prepare() -> None:
    # The wheel sends telemetry unless this is set before its first import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    found = "none"
    for name in _DISTRIBUTIONS:
        try:
            found = distributions.version(name)
        except distributions.PackageNotFoundError:
            continue
        if found == VERSION or found.startswith(f"{VERSION}."):
            break
    else:
        raise EngineNotInstalled(f"the onnx-genai engine needs {REQUIREMENT}, found {found}", SPEC.install_hint)
    try:
        distributions.version("tokenizers")
    except distributions.PackageNotFoundError:
        raise EngineNotInstalled("the onnx-genai engine needs tokenizers, found none", SPEC.install_hint) from None
