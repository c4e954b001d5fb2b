"""One layer of a store that consists of several: the ports of the store behind it."""

from __future__ import annotations

from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore
from corral.core.values import Value

__all__ = ("StoreLayer",)


class StoreLayer(Value, frozen=True, kw_only=True):
    """`name` is what errors and logs call it: its address in the settings."""

    name: str
    blobs: BlobStore
    manifests: ManifestStore
    local: LocalBlobs
