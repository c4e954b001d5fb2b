"""Upkeep of a store of several layers: of the upper one, which alone is changed."""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.stores.layers import StoreLayer
from corral.core.errors import ReadOnly
from corral.core.ports.blobs import BlobInfo
from corral.core.ports.upkeep import Leftover, StoreUpkeep

__all__ = ("LayeredUpkeep",)


class LayeredUpkeep:
    """The `StoreUpkeep` of the upper store, which knows whose a broken blob is."""

    def __init__(self, upkeep: StoreUpkeep, upper: StoreLayer, layers: Sequence[StoreLayer]) -> None:
        self._upkeep = upkeep
        self._upper = upper
        self._layers = tuple(layers)

    async def leftovers(self) -> Sequence[Leftover]:
        return await self._upkeep.leftovers()

    async def discard(self, leftover: Leftover) -> bool:
        return await self._upkeep.discard(leftover)

    async def quarantine(self, blob: BlobInfo) -> str | None:
        """Raises `ReadOnly` for a blob of a layer."""
        if await self._upper.blobs.stat(blob.digest) is None:
            for layer in self._layers:
                if await layer.blobs.stat(blob.digest) is not None:
                    raise ReadOnly(f"it is in {layer.name}, from where nothing is moved")
        return await self._upkeep.quarantine(blob)
