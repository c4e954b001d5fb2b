"""Deletes models with everything that belongs to them alone: derived models, folders of links, blobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from corral.core.catalog.unused_blobs import delete_unused, every_manifest
from corral.core.errors import CorralError, InvalidDigest, ReadOnly, StorageError
from corral.core.models.digests import Digest, digest_of, mentioned_digests, parse_digest
from corral.core.models.names import ModelName
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore, StoredManifest
from corral.core.specs.converters import DERIVED_HOST

__all__ = ("delete_model", "delete_replaced", "orphans")

_log = logging.getLogger(__name__)


async def delete_model(name: ModelName, *, manifests: ManifestStore, blobs: BlobStore, local: LocalBlobs) -> bool:
    """Deletes the manifest, then models derived from it alone, then blobs. The caller holds the guard exclusively.

    If the manifest cannot be read, only its name is deleted, because its files are not known. If another manifest
    cannot be read, only this manifest is deleted, because the other might name the same blobs. False if there was no
    such name.
    """
    try:
        stored = await manifests.get(name)
    except StorageError as error:
        _log.warning("deleted the name '%s', but none of its files: %s", name, error)
        return await manifests.delete(name)
    if stored is None:
        return await manifests.delete(name)  # a broken link
    await manifests.delete(stored.name)
    await _delete_what_hangs_on([stored.data], manifests=manifests, blobs=blobs, local=local)
    return True


async def delete_replaced(
    put: StoredManifest, *, manifests: ManifestStore, blobs: BlobStore, local: LocalBlobs
) -> None:
    """Deletes what no manifest names any more since `put` replaced one. The caller holds no guard.

    Best effort, never raises a `CorralError`: the new model is stored already.
    """
    if put.replaced is None or put.replaced == put.data:
        return
    try:
        async with manifests.guard(exclusive=True):
            await _delete_what_hangs_on([put.replaced], manifests=manifests, blobs=blobs, local=local)
    except CorralError as error:
        _log.warning("previous files of '%s' may still be in the store: %s", put.name, error)


async def _delete_what_hangs_on(
    doomed: list[bytes], *, manifests: ManifestStore, blobs: BlobStore, local: LocalBlobs
) -> None:
    """`doomed` are manifests that were deleted or replaced."""
    gone = set[Digest]()
    while doomed:
        manifest = doomed.pop()
        gone |= mentioned_digests(manifest)
        try:
            others = [other async for other in every_manifest(manifests)]
        except StorageError as error:
            _log.warning("keeping the files of a deleted model, because a manifest cannot be read: %s", error)
            return
        digest = digest_of(manifest)
        if all(other.digest != digest for other in others):
            try:
                await local.drop_folder(digest)
            except StorageError as error:  # only links: the blobs can still be deleted
                _log.warning("could not remove a folder of links: %s", error)
        for orphan in orphans(others):
            with suppress(ReadOnly):  # it belongs to the owner of a layer
                await manifests.delete(orphan.name)
                doomed.append(orphan.data)
    await delete_unused(gone, manifests=manifests, blobs=blobs)


def orphans(others: Sequence[StoredManifest]) -> list[StoredManifest]:
    """Derived models whose source belongs to no model any more, apart from other models derived from it.

    This includes sources that another program on the same store has deleted.
    """
    sources = [_source(other) for other in others]
    alive = set[Digest]()
    for other, source in zip(others, sources, strict=True):
        alive |= mentioned_digests(other.data) - {source}
    return [other for other, source in zip(others, sources, strict=True) if source is not None and source not in alive]


def _source(stored: StoredManifest) -> Digest | None:
    """The weights that a derived model was converted from; None for any other model."""
    if stored.name.host.lower() != DERIVED_HOST:
        return None
    with suppress(InvalidDigest):
        return parse_digest(f"sha256:{stored.name.namespace}")
    return None
