"""Making room for models: what is in memory, what it takes, and who has to go for the next one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from corral.core.engines import EngineSpec
from corral.core.errors import OutOfMemory
from corral.core.models import FileRole, ModelRecord
from corral.core.ports.inference import Runner, RunningModel
from corral.core.values import Value

__all__ = ("LoadListener", "LoadProgress", "Placement", "Resident", "files_key")

_log = logging.getLogger(__name__)

_KEY_ROLES: tuple[FileRole, ...] = ("weights", "projector", "adapter")


def files_key(record: ModelRecord) -> tuple[str, ...]:
    """What makes two models the same in memory. A model without weights is its own manifest."""
    files = (file.digest for role in _KEY_ROLES for file in record.files_of(role))
    return tuple(files) or (record.digest,)


class LoadProgress(Value, frozen=True, kw_only=True):
    """How far a load has come: the share done of its stage, 0 to 1. A model that must be converted is so first."""

    stage: Literal["converting", "loading"]
    share: float


LoadListener = Callable[[LoadProgress], None]


class Resident:
    """A model in memory or on its way there. `active` counts leases, those that wait for the load included.

    `converter`: the engine takes that one's result in the model's place. `placed`: its memory is spoken for.
    `draining`: somebody unloads it, so it goes after its last lease. `giving_way`: so does it while a load waits for
    its room. Either way it takes no new leases.
    """

    def __init__(
        self, record: ModelRecord, spec: EngineSpec, runner: Runner, options: Any, *, converter: str | None = None
    ) -> None:
        self.files = files_key(record)
        self.record = record
        self.spec = spec
        self.runner = runner
        self.options = options
        self.converter = converter
        self.names = {record.name.key}
        self.estimate: Mapping[str, int] = {}
        self.placed = False
        self.model: RunningModel | None = None
        self.loading: asyncio.Task[None] | None = None
        self.listeners: list[LoadListener] = []
        self.active = 0
        self.keep_alive_s: float | None = None
        self.expires_at = math.inf
        self.timer: asyncio.TimerHandle | None = None
        self.draining = False
        self.giving_way = False

    @property
    def leaving(self) -> bool:
        return self.draining or self.giving_way

    @property
    def waiting(self) -> int:
        """Leases that nobody works on now."""
        return self.active if self.model is None else max(0, self.active - self.model.info.parallel)

    def same_weights(self, other: Resident) -> bool:
        """The same model, with whatever options: one of them replaces the other."""
        return self.spec is other.spec and self.files == other.files

    def expires(self, now_s: float) -> float:
        """When its time is up if nobody asks for it from now on; infinite where it stays for ever."""
        return math.inf if self.keep_alive_s is None else now_s + self.keep_alive_s

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    @property
    def eviction_order(self) -> tuple[bool, float, str]:
        """Idle before busy, then the shortest keep-alive."""
        return (self.active > 0, math.inf if self.keep_alive_s is None else self.keep_alive_s, self.record.name.key)


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
