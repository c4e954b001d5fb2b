"""A Python in which clients of other programs are installed: they have no place in the one that runs the tests."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import _cache, _cached

__all__ = ("PACKAGES", "found_by_client", "python_with")

PACKAGES = (
    "langchain-openai>=1,<2",
    "langchain-anthropic>=1,<2",
    "langchain-ollama>=1,<2",
    "llama-index-llms-openai-like>=0.8,<1",
    "llama-index-llms-ollama>=0.11,<1",
    "llama-index-embeddings-openai>=0.7,<1",
    "llama-index-embeddings-ollama>=0.10,<1",
    "litellm>=1.80,<2",
)
_LIST = "import importlib.metadata as m, json; print(json.dumps([d.name.lower() for d in m.distributions()]))"
_FOLDER = "clients"
_PYTHON = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
_INSTALL = "CORRAL_INSTALL_CLIENTS"


def python_with(package: str) -> str:
    """The path of a Python that has `package`: ``CORRAL_CLIENTS_PYTHON``, the environment in the cache of the tests, or
    the one that runs them. With ``CORRAL_INSTALL_CLIENTS=1`` the one in the cache is made first, which takes a minute.

    Skips the test if none has it.
    """
    for python in _pythons():
        if package in _installed(python):
            return python
    pytest.skip(f"{package} is not installed: {_INSTALL}=1 installs it, CORRAL_CLIENTS_PYTHON is a Python that has it")


def found_by_client(python: str, script: str, *arguments: str) -> dict[str, Any]:
    """What a script prints in its last line, as JSON. Raises `AssertionError` with its errors if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_"))}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    done = subprocess.run(
        [python, "-c", script, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@functools.cache
def _pythons() -> list[str]:
    if given := os.environ.get("CORRAL_CLIENTS_PYTHON"):
        return [given]
    own = [sys.executable]
    if os.environ.get(_INSTALL) != "1" and not (_cache() / _FOLDER).exists():
        return own
    try:
        return [str(_cached(_FOLDER, _install) / _PYTHON), *own]
    except subprocess.CalledProcessError:  # pip has said why
        return own


def _install(scratch: Path) -> Path:
    folder = scratch / "environment"
    venv.create(folder, with_pip=True)
    subprocess.run([folder / _PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return folder


@functools.cache
def _installed(python: str) -> frozenset[str]:
    return frozenset(json.loads(subprocess.run([python, "-c", _LIST], check=True, capture_output=True).stdout))
