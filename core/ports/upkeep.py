"""The upkeep port: what a store holds besides blobs and manifests, and where it puts what is broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from corral.core.models.digests import Digest
from corral.core.ports.blobs import BlobInfo
from corral.core.values import Value

__all__ = ("Leftover", "LeftoverKind", "StoreUpkeep")

LeftoverKind = Literal[
    "partial", "scratch", "temporary", "folder", "note", "changed", "foreign", "empty", "quarantined"
]


class Leftover(Value, frozen=True, kw_only=True):
    """Something in a store that is neither a complete blob nor a manifest, and that no living process is using.

    `kind` is ``partial`` (an unfinished download of `digest`), ``scratch`` (left by a dead process), ``temporary``
    (a file that its writer needs for seconds), ``folder`` (links to the blobs of the model whose manifest has
    `digest`), ``note`` (what was noted about a blob that is gone), ``changed`` (a file in the place of the blob
    `digest` that is not that blob any more), ``foreign`` (another program's unfinished download), ``empty`` (a folder
    without manifests) or ``quarantined`` (a broken blob that was put aside).

    `path` says where it is, relative to the store; `size_bytes` is what it takes on the disk; `modified_at` is when it
    was last written to, in seconds since 1970.
    """

    kind: LeftoverKind
    path: str
    size_bytes: int
    modified_at: float
    digest: Digest | None = None


class StoreUpkeep(Protocol):
    """What housekeeping needs of a store besides its other ports. Safe with other tasks and processes on the store."""

    async def leftovers(self) -> Sequence[Leftover]:
        """All leftovers, without those that are in use. Raises `StorageError`."""
        ...

    async def discard(self, leftover: Leftover) -> bool:
        """Deletes it. False if it is gone, in use, or was written to after it was listed. Raises `StorageError`."""
        ...

    async def quarantine(self, blob: BlobInfo) -> str | None:
        """Moves a blob whose bytes are wrong out of the way, so that it can be fetched again; returns where it is now.

        None if it is gone, or was stored again since it was described. Raises `StorageError`.
        """
        ...
