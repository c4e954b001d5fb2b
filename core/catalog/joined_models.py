"""Finds weights that were joined from the same parts before, so that these are not fetched again."""

from __future__ import annotations

from collections.abc import Sequence

from corral.core.catalog.lookup import ModelLookup
from corral.core.models.digests import Digest
from corral.core.ports.blobs import BlobInfo, BlobStore

__all__ = ("joined_before",)


async def joined_before(lookup: ModelLookup, blobs: BlobStore, parts: Sequence[Digest]) -> BlobInfo | None:
    """The weights of a model in the store that were joined from these parts, in their order; None if there are none."""
    for record in await lookup.list(derived=False) if parts else ():
        if record.joined_from == tuple(parts) and record.weights is not None:
            found = await blobs.stat(record.weights.digest)
            if found is not None:
                return found
    return None
