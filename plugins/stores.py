"""The stores that come with Corral, put together from their adapters."""

from __future__ import annotations

from pathlib import Path

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.adapters.stores.metadata_cache import FilesystemMetadataCache
from corral.plugins.builtin import FilesystemStoreSettings
from corral.plugins.specs import Stores

__all__ = ("filesystem", "memory")


def filesystem(settings: FilesystemStoreSettings) -> Stores:
    """A folder in Ollama's layout."""
    root = Path(settings.root).expanduser().absolute()
    blobs = FilesystemBlobs(root)
    return Stores(blobs=blobs, manifests=FilesystemManifests(root), local=blobs, cache=FilesystemMetadataCache(root))


def memory() -> Stores:
    """Nothing outlives the process."""
    blobs = MemoryBlobs()
    return Stores(blobs=blobs, manifests=MemoryManifests(), local=blobs)
