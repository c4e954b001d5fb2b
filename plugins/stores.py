"""The stores that come with Corral, assembled from their adapters."""

from __future__ import annotations

from pathlib import Path

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.adapters.stores.metadata_cache import FilesystemMetadataCache
from corral.adapters.stores.oci_layout import OciLayoutManifests
from corral.adapters.stores.oci_layout_blobs import LayoutBlobFiles
from corral.adapters.stores.oci_layout_contents import LayoutContents
from corral.adapters.stores.upkeep import FilesystemUpkeep
from corral.core.errors import SettingsError, StorageError
from corral.plugins.builtin import FilesystemStoreSettings, OciLayoutStoreSettings
from corral.plugins.specs import Stores

__all__ = ("filesystem", "memory", "oci_layout")


def filesystem(settings: FilesystemStoreSettings) -> Stores:
    """A folder in Ollama's layout. Raises `SettingsError`."""
    root = _folder("stores.filesystem.root", settings.root)
    blobs = FilesystemBlobs(root)
    return Stores(
        blobs=blobs,
        manifests=FilesystemManifests(root),
        local=blobs,
        cache=FilesystemMetadataCache(root),
        upkeep=FilesystemUpkeep(root),
    )


def oci_layout(settings: OciLayoutStoreSettings) -> Stores:
    """An OCI image layout. Raises `SettingsError`, also for a folder that holds something else."""
    root = _folder("stores.oci-layout.root", settings.root)
    contents = LayoutContents(root)
    try:
        contents.check()
    except StorageError as error:
        raise SettingsError(f"stores.oci-layout.root: {error.message}", error.remedy) from error
    files = LayoutBlobFiles(contents)
    blobs = FilesystemBlobs(root, files)
    return Stores(
        blobs=blobs,
        manifests=OciLayoutManifests(contents),
        local=blobs,
        cache=FilesystemMetadataCache(root),
        upkeep=FilesystemUpkeep(root, files),
    )


def memory() -> Stores:
    """A store in memory, which ends with the process."""
    blobs = MemoryBlobs()
    return Stores(blobs=blobs, manifests=MemoryManifests(), local=blobs)


def _folder(setting: str, text: str) -> Path:
    """Raises `SettingsError` for a path that is not valid UTF-8: it could not be passed to child processes, native code
    or JSON."""
    root = Path(text).expanduser().absolute()
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"{setting}: the path {str(root)!a} is not valid UTF-8", "rename the folder, or choose another"
        ) from None
    return root
