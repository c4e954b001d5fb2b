"""Corral: run any local model, on any engine, behind one API.

The public names live in ``corral.api.library`` and ``corral.core``; they are imported when first used, so that
``import corral`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corral.api.library import AsyncCorral, Corral
    from corral.core.errors import CorralError

__all__ = ("AsyncCorral", "Corral", "CorralError", "__version__")

__version__ = "0.1.0"

_HOMES = {"Corral": "corral.api.library", "AsyncCorral": "corral.api.library", "CorralError": "corral.core.errors"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'corral' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
