"""The entry points: loading and device discovery. Rejects unsupported versions before importing anything native."""

from __future__ import annotations

import os
from collections.abc import Sequence

from corral.adapters.engines.onnx_genai.spec import SPEC
from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.errors import EngineNotInstalled
from corral.core.ports.engines import StepEngine
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import Device, LoadRequest
from corral.core.wording.pip_lines import install_line

__all__ = ("devices", "load")


def load(request: LoadRequest, on_progress: OnLoadProgress) -> StepEngine:
    """Load the engine of one model folder. Blocking, and it holds the GIL for a long time: only for a separate process.

    Raises `EngineNotInstalled`, `InvalidModelFile`, `InvalidOption`, `OutOfMemory`, `LoadFailed`.
    """
    _prepare()
    from corral.adapters.engines.onnx_genai.build import build_engine

    return build_engine(request, on_progress)


def devices() -> Sequence[Device]:
    """The CPU and the available execution providers. Raises `EngineNotInstalled`."""
    _prepare()
    from corral.adapters.engines.onnx_genai.native import find_devices

    return find_devices()


def _prepare() -> None:
    # The wheel sends telemetry unless this is set before its first import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    missing = InstalledPackages().missing(SPEC)
    if missing:
        raise EngineNotInstalled(f"the {SPEC.name} engine cannot run here: {missing}", install_line(SPEC))
