"""The stores that come with Corral, assembled from their adapters."""

from __future__ import annotations

from pathlib import Path

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.adapters.stores.metadata_cache import FilesystemMetadataCache
from corral.adapters.stores.upkeep import FilesystemUpkeep
from corral.core.errors import SettingsError
from corral.plugins.builtin import FilesystemStoreSettings
from corral.plugins.specs import Stores

__all__ = ("filesystem", "memory")


def filesystem(settings: FilesystemStoreSettings) -> Stores:
    """A folder in Ollama's layout. Raises `SettingsError` for a path that is not valid UTF-8: it could not be passed to
    child processes, native code or JSON."""
    root = Path(settings.root).expanduser().absolute()
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"stores.filesystem.root: the path {str(root)!a} is not valid UTF-8", "rename the folder, or choose another"
        ) from None
    blobs = FilesystemBlobs(root)
    return Stores(
        blobs=blobs,
        manifests=FilesystemManifests(root),
        local=blobs,
        cache=FilesystemMetadataCache(root),
        upkeep=FilesystemUpkeep(root),
    )


def memory() -> Stores:
    """A store in memory, which ends with the process."""
    blobs = MemoryBlobs()
    return Stores(blobs=blobs, manifests=MemoryManifests(), local=blobs)
