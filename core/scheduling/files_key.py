"""Decides whether two models are the same in memory: `files_key`."""

from __future__ import annotations

from corral.core.models.digests import Digest
from corral.core.models.model import FileRole, StoredModel

__all__ = ("FilesKey", "files_key")

_NEVER_READ: frozenset[FileRole] = frozenset({"license", "messages", "params", "system"})
"""Roles that only Corral reads, also in a folder."""

FilesKey = tuple[tuple[FileRole, Digest, str | None], ...] | Digest


def files_key(record: StoredModel) -> FilesKey:
    """Models with equal keys are the same in memory: the same files in the same roles and, if roles repeat, order.

    The names of files count only in a folder. A model that opens no files is identified by its manifest.
    """
    files = [file for file in record.loaded_files if file.role not in _NEVER_READ]
    folder = len(files) > 1
    return tuple((file.role, file.digest, file.path if folder else None) for file in files) or record.digest
