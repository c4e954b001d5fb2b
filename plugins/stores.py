"""The stores that come with Corral, assembled from their adapters."""

from __future__ import annotations

from pathlib import Path

from corral.adapters.stores.cache_limit import CacheLimit
from corral.adapters.stores.computed_folder import computed_folder
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.layered_upkeep import LayeredUpkeep
from corral.adapters.stores.layers import StoreLayer
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.adapters.stores.metadata_cache import FilesystemMetadataCache
from corral.adapters.stores.oci_layout import OciLayoutManifests
from corral.adapters.stores.oci_layout_blobs import LayoutBlobFiles
from corral.adapters.stores.oci_layout_contents import LayoutContents
from corral.adapters.stores.remote_blobs import RemoteBlobs
from corral.adapters.stores.remote_index import RemoteIndex
from corral.adapters.stores.remote_manifests import RemoteManifests
from corral.adapters.stores.remote_names import RemoteNames
from corral.adapters.stores.remote_registry import StorageRegistry
from corral.adapters.stores.remote_writing import RemoteWriting
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.stores.store_locks import StoreLocks
from corral.adapters.stores.upkeep import FilesystemUpkeep
from corral.core.errors import SettingsError, StorageError
from corral.plugins.builtin import FilesystemStoreSettings, OciLayoutStoreSettings, OciStoreSettings
from corral.plugins.hook_kinds import require_port
from corral.plugins.specs import Stores

__all__ = ("filesystem", "memory", "oci", "oci_layout")


_LONGEST_UPLOAD_S = 6 * 3600.0  # a deletion waits for models that are being sent to a registry


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
        cache_folder=computed_folder(root),
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
        cache_folder=computed_folder(root),
        preferred_formats=("modelpack",),  # other tools find OCI manifests only
    )


def oci(settings: OciStoreSettings, registry: StorageRegistry) -> Stores:
    """A registry used as a store, with a cache. Raises `SettingsError`, and `PluginError` for a registry that cannot
    list and delete."""
    require_port("the registry", registry, StorageRegistry)
    names = RemoteNames(settings.location)
    root = _folder("stores.oci.cache", settings.cache) / _cache_name(names)
    folders, cache = StoreFolders(root), FilesystemBlobs(root)
    index = RemoteIndex(registry, names, folders, repositories=settings.repositories, fresh_s=settings.fresh.seconds)
    limit = CacheLimit(cache, folders, settings.cache_bytes)
    blobs = RemoteBlobs(registry, index, cache, limit)
    manifests = RemoteManifests(
        index,
        RemoteWriting(registry, index, cache),
        StoreLocks(folders, guard_timeout_s=_LONGEST_UPLOAD_S),
        FilesystemManifests(root),
        limit,
    )
    return Stores(
        blobs=blobs,
        manifests=manifests,
        local=blobs,
        cache=FilesystemMetadataCache(root),
        cache_folder=computed_folder(root),
        upkeep=LayeredUpkeep(
            FilesystemUpkeep(root),
            StoreLayer(name=str(root), blobs=cache, manifests=manifests, local=cache),
            [StoreLayer(name=str(names), blobs=blobs, manifests=manifests, local=blobs)],
        ),
    )


def memory() -> Stores:
    """A store in memory, which ends with the process."""
    blobs = MemoryBlobs()
    return Stores(blobs=blobs, manifests=MemoryManifests(), local=blobs)


def _cache_name(names: RemoteNames) -> str:
    """A folder's name for each registry and prefix. Neither may have a ``+``, nor a host an ``=``."""
    return str(names).removeprefix("oci://").replace("/", "+").replace(":", "=")


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
