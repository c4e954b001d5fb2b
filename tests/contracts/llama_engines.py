"""Loads a llama.cpp engine for the tests, as its loader does for a runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.loader import load
from corral.core.specs.engines import LoadRequest, LocalFile

__all__ = ("loaded_engine",)


def loaded_engine(
    *files: Path | LocalFile, options: Mapping[str, object], cache_folder: Path | None = None
) -> LlamaCppEngine:
    """An engine with these files, of which a path is one of weights. The caller closes it.

    It has one thread: two wait for each other at every layer, which multiplies the time where others compute too.
    """
    request = LoadRequest(
        model="test",
        files=tuple(LocalFile(role="weights", path=str(file)) if isinstance(file, Path) else file for file in files),
        cache_folder=None if cache_folder is None else str(cache_folder),
        load_options={"num_thread": 1, **options},
    )
    engine = load(request, lambda share: None)
    assert isinstance(engine, LlamaCppEngine)
    return engine
