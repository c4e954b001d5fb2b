"""The entry points for loading: reject unsupported versions of llama-cpp-python before importing anything native."""

from __future__ import annotations

from importlib import metadata as distributions

from corral.adapters.engines.llama_cpp.spec import REQUIREMENT, SPEC, VERSION
from corral.adapters.system.openmp import short_waits
from corral.core.errors import EngineNotInstalled
from corral.core.ports.engines import Engine, StepEngine
from corral.core.ports.runners import OnLoadProgress
from corral.core.specs.engines import LoadRequest
from corral.core.wording.pip_lines import install_line

__all__ = ("load", "vocabulary")


def load(request: LoadRequest, on_progress: OnLoadProgress) -> StepEngine:
    """Load the engine of one GGUF file. Blocking; called in the thread or process that will own it.

    Raises `EngineNotInstalled`, `InvalidModelFile`, `InvalidOption`, `OutOfMemory`, `LoadFailed`.
    """
    _require_version()
    with short_waits():
        from corral.adapters.engines.llama_cpp.build import build_engine

    return build_engine(request, on_progress)


def vocabulary(request: LoadRequest, on_progress: OnLoadProgress) -> Engine:
    """Open the vocabulary of one GGUF file. Raises what `load` raises."""
    _require_version()
    from corral.adapters.engines.llama_cpp.vocabulary import open_vocabulary

    return open_vocabulary(request, on_progress)


def _require_version() -> None:
    try:
        found = distributions.version("llama-cpp-python")
    except distributions.PackageNotFoundError:
        found = "none"
    if found != VERSION:
        raise EngineNotInstalled(f"the llama-cpp engine needs {REQUIREMENT}, found {found}", install_line(SPEC))
