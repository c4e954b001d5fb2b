"""The entry points: loading, the tokenizer, and devices. Nothing native is imported before telemetry is off."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

from corral.adapters.engines.onnx_embeddings.spec import SPEC
from corral.core.errors import EngineNotInstalled
from corral.core.ports.engines import Engine, StepEngine
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import Device, LoadRequest
from corral.core.wording.pip_lines import install_line

__all__ = ("devices", "load", "vocabulary")


def load(request: LoadRequest, on_progress: OnLoadProgress) -> StepEngine:
    """Load the engine of one sentence encoder. Blocking; called in the thread or process that will own it.

    Raises `EngineNotInstalled`, `InvalidModelFile`, `InvalidOption`, `OutOfMemory`, `LoadFailed`.
    """
    _prepare()
    from corral.adapters.engines.onnx_embeddings.build import build_engine

    return build_engine(request, on_progress)


def vocabulary(request: LoadRequest, on_progress: OnLoadProgress) -> Engine:
    """Read the tokenizer of one sentence encoder. Raises `InvalidModelFile`."""
    from corral.adapters.engine_kit.vocabulary_engine import VocabularyEngine
    from corral.adapters.engines.onnx_embeddings.folder import open_folder
    from corral.adapters.engines.onnx_embeddings.tokenizer import EncoderTokenizer

    folder = open_folder(request)
    return VocabularyEngine(EncoderTokenizer(folder.tokenizer, folder.vocabulary_size))


def devices() -> Sequence[Device]:
    """The devices that ONNX Runtime can use here. Raises `EngineNotInstalled`."""
    _prepare()
    from corral.adapters.engines.onnx_embeddings.session import providers

    kinds = [name.removesuffix("ExecutionProvider") for name in providers()]
    return tuple(Device(kind=kind.lower(), name=f"{kind} execution provider of ONNX Runtime") for kind in kinds)


def _prepare() -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some builds send it unless this is set before their first import
    for module in ("onnxruntime", "tokenizers", "numpy"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EngineNotInstalled(f"the {SPEC.name} engine needs {module}: {error}", install_line(SPEC)) from error
