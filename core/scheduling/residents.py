"""The models in memory, those on their way there, and the memory that is being freed: `Residents`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.ports.runners import Runner
from corral.core.ports.running import RunningModel
from corral.core.scheduling.engine_choice import Candidate
from corral.core.scheduling.resident import Resident
from corral.core.scheduling.sharing import files_key

__all__ = ("Residents",)


class Residents:
    """All `Resident`s of a scheduler. Iterates over a snapshot, so that residents may leave during the loop."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._residents: list[Resident] = []
        self._departures: set[asyncio.Task[object]] = set()
        self._changed = asyncio.Event()

    def __iter__(self) -> Iterator[Resident]:
        return iter(tuple(self._residents))

    def waiting_of(self, owner: str) -> int:
        """How many of this owner's leases wait for a load or for a free stream, at most."""
        return sum(one.waiting_of(owner) for one in self._residents)

    @property
    def departures(self) -> int:
        """How many models are still freeing their memory."""
        return len(self._departures)

    def find(self, record: StoredModel, engine: Candidate) -> Resident | None:
        """The resident that serves this choice and accepts leases, or None. Removes models that have died."""
        files = files_key(record)
        for one in self:
            if one.dead:
                self.remove(one)
            elif one.serves(files, engine):
                return one
        return None

    def tokenizing(self, record: StoredModel, engine: Candidate) -> Resident | None:
        """A model that is in memory on this engine, accepts leases and tokenizes. Load options do not matter for that.

        None if there is none.
        """
        for one in self.of(record):
            suits = one.spec is engine.spec and one.derivation == engine.match.derive and not (one.leaving or one.dead)
            if suits and one.model is not None and "tokenize" in one.model.info.features:
                return one
        return None

    def of(self, record: StoredModel) -> list[Resident]:
        """All residents that are this model, with any engine and options."""
        files = files_key(record)
        return [one for one in self._residents if one.loaded_as.files == files]

    def upstreams_named(self, name: ModelName) -> list[Resident]:
        """The upstreams that were leased under this name."""
        return [one for one in self._residents if one.record.remote and name.key in one.names]

    def placed(self) -> list[Resident]:
        """The residents whose memory is reserved."""
        return [one for one in self._residents if one.placed]

    def add(
        self,
        record: StoredModel,
        engine: Candidate,
        runner: Runner,
        *,
        keep_alive_s: float | None,
        load: Callable[[Resident], Awaitable[RunningModel]],
    ) -> Resident:
        """Start loading a model. It is removed if its load fails, or when its keep-alive time is over."""
        resident = Resident(
            record,
            engine,
            runner,
            keep_alive_s=keep_alive_s,
            clock_s=self._clock_s,
            on_expired=self.remove,
        )
        self._residents.append(resident)
        resident.start(load).add_done_callback(lambda _: self._load_ended(resident))
        return resident

    def give_back(self, resident: Resident, owner: str) -> None:
        """End a lease of this owner, and remove the model if nothing keeps it in memory."""
        resident.give_back(owner)
        if resident.finished:
            self.remove(resident)
        self._changed.set()

    def unload(self, resident: Resident) -> asyncio.Task[object] | None:
        """Remove it now if it is idle, else after its last lease; the task ends when its memory is free."""
        resident.drain()
        return self.remove(resident) if resident.idle else None

    def remove(self, resident: Resident) -> asyncio.Task[object]:
        """Stop its load or close it, whoever uses it; the task ends when its memory is free."""
        self._residents.remove(resident)
        departure = resident.leave()
        self._departures.add(departure)
        departure.add_done_callback(self._departed)
        return departure

    async def change(self) -> None:
        """Wait until a lease, a load or an unload has ended. For one caller at a time."""
        self._changed.clear()
        await self._changed.wait()

    async def departure(self) -> None:
        """Wait until one of the `departures` has ended; return at once if there is none."""
        if self._departures:
            await asyncio.wait(self._departures, return_when=asyncio.FIRST_COMPLETED)

    async def aclose(self) -> None:
        """Remove all of them; return when their memory is free."""
        for resident in self:
            self.remove(resident)
        while self._departures:
            await asyncio.wait(self._departures)

    def _load_ended(self, resident: Resident) -> None:
        if resident.gone and resident in self._residents:
            self._residents.remove(resident)
        self._changed.set()

    def _departed(self, departure: asyncio.Task[object]) -> None:
        self._departures.discard(departure)
        self._changed.set()
