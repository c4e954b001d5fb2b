"""Deletes blobs that no manifest names any more."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress

from corral.core.errors import CorralError, StorageError
from corral.core.models.digests import Digest, mentioned_digests
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestStore

__all__ = ("delete_unreferenced", "drop_unused")

_log = logging.getLogger(__name__)


async def drop_unused(candidates: Collection[Digest], *, manifests: ManifestStore, blobs: BlobStore) -> None:
    """Best effort, after something failed whose own error is what matters: deletes what came for nothing.

    What another model has stays. The caller holds no guard.
    """
    if candidates:
        with suppress(CorralError):
            async with manifests.guard(exclusive=True):
                await delete_unreferenced(candidates, manifests=manifests, blobs=blobs)


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
