"""The entry points: loading, the tokenizer, and devices. Reject wrong versions before importing anything native."""

from __future__ import annotations

import os
from collections.abc import Sequence

from corral.adapters.engines.onnx_genai.spec import SPEC
from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.errors import EngineNotInstalled
from corral.core.ports.engines import Engine, StepEngine
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import Device, LoadRequest
from corral.core.wording.pip_lines import install_line

__all__ = ("devices", "load", "vocabulary")


def load(request: LoadRequest, on_progress: OnLoadProgress) -> StepEngine:
    """Load the engine of one model folder. Blocking, and it holds the GIL for a long time: only for a separate process.

    Raises `EngineNotInstalled`, `InvalidModelFile`, `InvalidOption`, `OutOfMemory`, `LoadFailed`.
    """
    _prepare()
    from corral.adapters.engines.onnx_genai.build import build_engine

    return build_engine(request, on_progress)


def vocabulary(request: LoadRequest, on_progress: OnLoadProgress) -> Engine:
    """Read the tokenizer of one model folder. Raises `EngineNotInstalled`, `InvalidModelFile`."""
    _prepare()
    from corral.adapters.engine_kit.vocabulary_engine import VocabularyEngine
    from corral.adapters.engines.onnx_genai.folder import open_folder
    from corral.adapters.engines.onnx_genai.tokenizer import tokenizer_of

    tokenizer = tokenizer_of(open_folder(request))
    return VocabularyEngine(tokenizer, longest_token_bytes=tokenizer.longest_token_bytes)


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
