"""Making room for models: what is in memory, what it takes, and who has to go for the next one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from corral.core.errors import OutOfMemory
from corral.core.scheduling.residents import Resident

__all__ = ("Placement",)

_log = logging.getLogger(__name__)


class Placement:
    """Admits loads one after the other, in the order they came. Shares the scheduler's books and never adds to them."""

    def __init__(
        self,
        *,
        free_memory: Callable[[], Mapping[str, int]],
        max_loaded: int,
        residents: Sequence[Resident],
        unloading: set[asyncio.Task[None]],
        unload: Callable[[Resident], asyncio.Task[None]],
    ) -> None:
        self._free_memory = free_memory
        self._max_loaded = max_loaded
        self._residents = residents
        self._unloading = unloading
        self._unload = unload
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def look_again(self) -> None:
        """Something has ended: a lease, a load, a model."""
        self._changed.set()

    async def make_room(self, resident: Resident) -> None:
        """Returns when its estimate fits, as `placed`. Raises `OutOfMemory` where it never can, evicting nobody.

        An upstream takes no room and is not counted.
        """
        if resident.record.remote:
            return
        async with self._turn:
            try:
                while not await self._fits(resident):
                    pass
                resident.placed = True
            finally:
                for one in self._residents:
                    one.giving_way = False

    async def free_idle(self) -> bool:
        """Unloads all that is idle and waits for its memory. False where nothing was."""
        unloads = [self._unload(one) for one in list(self._residents) if one.placed and one.model and not one.active]
        if unloads:
            await asyncio.wait(unloads)
        return bool(unloads)

    async def _fits(self, resident: Resident) -> bool:
        """True where it fits now; else one thing has been done about it, or waited for."""
        self._changed.clear()
        others = [one for one in self._residents if one.placed]
        device, needed, free = self._shortfall(resident, others)
        if device is not None:
            if self._unloading:
                await asyncio.wait(self._unloading, return_when=asyncio.FIRST_COMPLETED)
                return False
            held = sum(one.estimate.get(device, 0) for one in others)
            if needed > free + held:
                others_hold = f" and {_size(held)} is held by other models" if held else ""
                raise OutOfMemory(
                    f"{resident.record.name.short} needs about {_size(needed)} of {device} memory, "
                    f"but only {_size(free)} is free{others_hold}",
                    "use a smaller model or quantization, or a smaller num_ctx",
                )
        replaced = [one for one in others if one.model is not None and not one.active and one.same_weights(resident)]
        if replaced:
            for one in replaced:
                self._unload(one)
            return False
        if device is None and len(others) + len(self._unloading) < self._max_loaded:
            return True
        if self._unloading:
            await asyncio.wait(self._unloading, return_when=asyncio.FIRST_COMPLETED)
            return False
        await self._evict(min((one for one in others if one.model is not None), key=_eviction_order, default=None))
        return False

    async def _evict(self, victim: Resident | None) -> None:
        if victim is None:  # all of them are loading
            await self._changed.wait()
        elif not victim.active:
            _log.info("unloading %s to make room", victim.record.name.short)
            self._unload(victim)
        else:
            victim.giving_way = True
            await self._changed.wait()

    def _shortfall(self, resident: Resident, others: Sequence[Resident]) -> tuple[str | None, int, int]:
        """The first device where it does not fit, with the bytes needed and free; loads under way count as taken."""
        free = self._free_memory()
        for device, needed in resident.estimate.items():
            if device in free:
                taken = sum(one.estimate.get(device, 0) for one in others if one.model is None)
                if needed > free[device] - taken:
                    return device, needed, max(0, free[device] - taken)
        return None, 0, 0


def _eviction_order(resident: Resident) -> tuple[bool, float, str]:
    return resident.eviction_order


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
