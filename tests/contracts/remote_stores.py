"""Stores on a registry, made as the assembly makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corral.adapters.registries.oci.registry import OciRegistry
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.plugins.builtin import OciStoreSettings
from corral.plugins.settings.types import Duration
from corral.plugins.specs import Stores
from corral.plugins.stores import oci

__all__ = ("remote_stores",)


def remote_stores(location: str, folder: Path, *, fresh: str = "5s", **settings: Any) -> Stores:
    """The stores on ``HOST/PREFIX``, with a cache and a home in `folder`, for one event loop."""
    home = {"HOME": str(folder), "DOCKER_CONFIG": str(folder)}
    registry = OciRegistry(OciRegistrySettings(ollama_key=str(folder / "key")), environment=home)
    return oci(
        OciStoreSettings(location=location, cache=str(folder / "cache"), fresh=Duration(fresh), **settings), registry
    )
