"""Deletes blobs that no manifest names any more."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from corral.core.errors import StorageError
from corral.core.models.digests import Digest, mentioned_digests
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestStore

__all__ = ("delete_unreferenced",)

_log = logging.getLogger(__name__)


async def delete_unreferenced(candidates: Iterable[Digest], *, manifests: ManifestStore, blobs: BlobStore) -> None:
    """Deletes those `candidates` that no manifest mentions. The caller holds the store's guard, exclusively.

    Where one manifest cannot be read nothing is deleted: it might name any of them.
    """
    doomed = set(candidates)
    try:
        async for stored in manifests.list(strict=True):
            doomed -= mentioned_digests(stored.data)
    except StorageError as error:
        _log.warning("deleted no blobs, because a manifest cannot be read: %s", error)
        return
    for digest in sorted(doomed):
        try:
            await blobs.delete(digest)
        except StorageError as error:  # one that cannot go keeps no other
            _log.warning("could not delete an unused blob: %s", error)
