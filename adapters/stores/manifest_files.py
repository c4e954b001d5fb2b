"""Reads the file of one manifest: within limits, and never a file outside the store."""

from __future__ import annotations

import io
import os
from pathlib import Path

from corral.adapters.stores.adoption import Fingerprint, fingerprint_of
from corral.adapters.stores.manifest_paths import name_of
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.files import storage_errors
from corral.core.errors import StorageError
from corral.core.models.digests import digest_of
from corral.core.ports.manifests import StoredManifest
from corral.core.regular_files import open_regular

__all__ = ("LATEST_S", "check_inside", "read_manifest")

_LIMIT_BYTES = 4 * 1024 * 1024
LATEST_S = 253_370_764_800.0
"""The year 9999, the last that calendars can show."""


def read_manifest(folders: StoreFolders, path: Path) -> tuple[StoredManifest, Fingerprint] | None:
    """The manifest, and the fingerprint of the file that it was read from; None if there is no file. Blocking.

    Raises `StorageError` for a file that is too large, leads out of the store, or cannot be read.
    """
    with storage_errors(f"cannot read the manifest {path}"):
        try:
            check_inside(folders, path)
            with io.BufferedReader(open_regular(path)) as file:
                status = os.fstat(file.fileno())  # taken before reading, so that a write in the meantime invalidates it
                data = file.read(_LIMIT_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
    if len(data) > _LIMIT_BYTES:
        raise StorageError(f"the manifest {path} is larger than {_LIMIT_BYTES} bytes")
    modified_at = min(max(status.st_mtime, 0.0), LATEST_S)
    stored = StoredManifest(name=name_of(path), data=data, digest=digest_of(data), modified_at=modified_at)
    return stored, fingerprint_of(status)


def check_inside(folders: StoreFolders, path: Path) -> None:
    """Raises `StorageError` for a path that leads out of the store's manifests through a link. Blocking."""
    derived = str(folders.derived)  # as text: this is done for every manifest of a list
    own = f"{path}{os.sep}".startswith(derived + os.sep)
    root = os.path.realpath(derived if own else folders.manifests)
    real = os.path.realpath(path)
    if os.path.commonpath((root, real)) != root:
        raise StorageError(
            f"the manifest {path} is a link that leads out of the store, to {real}", "replace the link with a file"
        )
