"""Makes room for the next model: decides whether it fits into memory, and which models are unloaded for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from corral.core.errors import OutOfMemory
from corral.core.scheduling.resident import Resident
from corral.core.scheduling.residents import Residents
from corral.core.wording.memory_sizes import memory_size

__all__ = ("Placement",)

_log = logging.getLogger(__name__)


class Placement:
    """Admits loads one by one, in the order in which they were requested."""

    def __init__(self, *, residents: Residents, free_memory: Callable[[], Mapping[str, int]], max_loaded: int) -> None:
        self._residents = residents
        self._free_memory = free_memory
        self._max_loaded = max_loaded
        self._turn = asyncio.Lock()

    async def make_room(self, resident: Resident) -> None:
        """Wait until its estimate fits, then reserve the memory.

        Raises `OutOfMemory`, without having unloaded anything, if it can never fit. An upstream takes no memory and
        does not count.
        """
        if resident.record.remote:
            return
        async with self._turn:
            try:
                while not await self._fits(resident):
                    pass
                resident.place()
            finally:
                for one in self._residents:
                    one.stay()

    async def free_others(self, resident: Resident) -> bool:
        """Unload all other loaded models, each after its last request, and wait for their memory. False if there are
        none.
        """
        async with self._turn:
            found = False
            try:
                while others := [one for one in self._residents.placed() if not one.loading and one is not resident]:
                    found = True
                    for one in others:
                        if one.idle:
                            self._residents.remove(one)
                        else:
                            one.give_way()
                    if any(not one.gone for one in others):
                        await self._residents.change()
                while self._residents.departures:
                    found = True
                    await self._residents.departure()
            finally:
                for one in self._residents:
                    one.stay()
        return found

    async def _fits(self, resident: Resident) -> bool:
        """Whether it fits now. If not, takes one step towards it: unloads something, or waits for a change."""
        others = self._residents.placed()
        device, needed, free = self._shortfall(resident, others)
        if device is not None:
            if self._residents.departures:
                await self._residents.departure()
                return False
            held = sum(one.estimate.get(device, 0) for one in others)
            if needed > free + held:
                others_hold = f" and {memory_size(held)} is held by other models" if held else ""
                raise OutOfMemory(
                    f"{resident.record.name.short} needs about {memory_size(needed)} of {device} memory, "
                    f"but only {memory_size(free)} is free{others_hold}",
                    "use a smaller model or quantization, or a smaller num_ctx",
                )
        replaced = [one for one in others if one.idle and one.same_weights(resident)]
        if replaced:
            for one in replaced:
                self._residents.remove(one)
            return False
        if device is None and len(others) + self._residents.departures < self._max_loaded:
            return True
        if self._residents.departures:
            await self._residents.departure()
            return False
        await self._evict(min((one for one in others if not one.loading), key=_eviction_order, default=None))
        return False

    async def _evict(self, victim: Resident | None) -> None:
        if victim is None:  # all others are still loading
            await self._residents.change()
        elif victim.idle:
            _log.info("unloading %s to make room", victim.record.name.short)
            self._residents.remove(victim)
        else:
            victim.give_way()
            await self._residents.change()

    def _shortfall(self, resident: Resident, others: Sequence[Resident]) -> tuple[str | None, int, int]:
        """The first device without enough memory, with the bytes needed and free; running loads count as taken."""
        free = self._free_memory()
        for device, needed in resident.estimate.items():
            if device in free:
                taken = sum(one.estimate.get(device, 0) for one in others if one.loading)
                if needed > free[device] - taken:
                    return device, needed, max(0, free[device] - taken)
        return None, 0, 0


def _eviction_order(resident: Resident) -> tuple[bool, float, str]:
    """A sort key: idle before leased, then the shortest keep-alive."""
    return (not resident.idle, resident.keep_alive_s, resident.record.name.key)
