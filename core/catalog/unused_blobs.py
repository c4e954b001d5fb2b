"""Deletes blobs that no manifest names any more."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import suppress

import msgspec

from corral.core.errors import CorralError, StorageError
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, mentioned_digests
from corral.core.ports.blobs import BlobStore
from corral.core.ports.manifests import ManifestStore, StoredManifest

__all__ = ("delete_unused", "discard_blobs", "every_manifest")

_log = logging.getLogger(__name__)


async def every_manifest(manifests: ManifestStore) -> AsyncGenerator[StoredManifest, None]:
    """All manifests of a store with their bytes.

    Raises `StorageError` if one cannot be read, or is no JSON object: what is left of it need not name all its blobs.
    """
    async for entry in manifests.list(strict=True):
        stored = await manifests.get(entry.name)
        if stored is None:  # another program has just deleted it
            continue
        try:
            msgspec.json.decode(stored.data, type=dict[str, msgspec.Raw])
        except MALFORMED as error:
            raise StorageError(
                f"the manifest of '{entry.name}' is broken: {error}", f"pull the model again, or corral rm {entry.name}"
            ) from error
        yield stored


async def discard_blobs(candidates: Collection[Digest], *, manifests: ManifestStore, blobs: BlobStore) -> None:
    """Best effort, to clean up after a failure whose own error is what matters: deletes blobs that are not needed.

    Blobs of other models stay. The caller holds no guard.
    """
    if candidates:
        with suppress(CorralError):
            async with manifests.guard(exclusive=True):
                await delete_unused(candidates, manifests=manifests, blobs=blobs)


async def delete_unused(candidates: Iterable[Digest], *, manifests: ManifestStore, blobs: BlobStore) -> None:
    """Deletes the `candidates` that no manifest mentions and no process holds. The caller holds the store's guard
    exclusively.

    If a manifest cannot be read, nothing is deleted: it might name any of them.
    """
    doomed = set(candidates)
    try:
        doomed -= await blobs.held()
        async for stored in every_manifest(manifests):
            doomed -= mentioned_digests(stored.data)
    except StorageError as error:
        _log.warning("deleted no blobs, because it is not known which are needed: %s", error)
        return
    for digest in sorted(doomed):
        try:
            await blobs.delete(digest)
        except StorageError as error:  # the others can still be deleted
            _log.warning("could not delete an unused blob: %s", error)
