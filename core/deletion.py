"""Deletes models with all that hangs on them: derived models, folders of links, blobs that nobody names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from corral.core.converters import DERIVED_HOST
from corral.core.errors import StorageError
from corral.core.models import Digest, mentioned_digests
from corral.core.ports.storage import BlobStore, LocalBlobs, ManifestStore, StoredManifest
from corral.core.references import delete_unreferenced

__all__ = ("delete_model",)

_log = logging.getLogger(__name__)


async def delete_model(
    stored: StoredManifest, *, manifests: ManifestStore, blobs: BlobStore, local: LocalBlobs
) -> None:
    """The manifest, models derived from what no other model has, then blobs. The caller holds the guard, exclusively.

    Where another manifest cannot be read only this one goes: it might name any of the blobs.
    """
    doomed, gone = [stored], set[Digest]()
    while doomed:
        model = doomed.pop()
        await manifests.delete(model.name)
        gone |= mentioned_digests(model.data)
        try:
            others = [other async for other in manifests.list(strict=True)]
        except StorageError as error:
            _log.warning("nothing else of '%s' was deleted, for one manifest cannot be read: %s", model.name, error)
            return
        if all(other.digest != model.digest for other in others):
            await local.drop_folder(model.digest)
        doomed = _orphans(gone, others)
    await delete_unreferenced(gone, manifests=manifests, blobs=blobs)


def _orphans(gone: set[Digest], others: Sequence[StoredManifest]) -> list[StoredManifest]:
    """Derived models of a digest that is gone from every model, those derived from it left aside."""
    orphans = []
    for source in gone:
        derived = [
            other
            for other in others
            if other.name.host.lower() == DERIVED_HOST and other.name.namespace.lower() == source.partition(":")[2]
        ]
        if derived and not any(source in mentioned_digests(other.data) for other in others if other not in derived):
            orphans += derived
    return orphans
