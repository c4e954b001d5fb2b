"""Turns at what only a few may do at once: those who ask take turns, and nobody has all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

from corral.core.stepping.fair_queue import FairQueue

__all__ = ("FairTurns",)

_Waiting = tuple[str, asyncio.Future[None]]


class FairTurns:
    """At most `most` turns at once, of which one owner has at most `most_each`. For one event loop."""

    def __init__(self, most: int, most_each: int) -> None:
        self._free = most
        self._most_each = most_each
        self._waiting: FairQueue[_Waiting] = FairQueue(lambda item: item[0])
        self._owners: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """Kept by those who wait for them or have them."""

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[None]:
        """A turn of `owner`, for as long as the context is open. Of several owners, whose last turn was longest ago is
        next.
        """
        own = self._owners.get(owner)
        if own is None:
            own = self._owners[owner] = asyncio.Semaphore(self._most_each)
        async with own:
            await self._enter(owner)
            try:
                yield
            finally:
                self._leave()

    async def _enter(self, owner: str) -> None:
        if self._free:
            self._free -= 1
            return
        item: _Waiting = (owner, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        try:
            await item[1]
        except asyncio.CancelledError:
            if item[1].done() and not item[1].cancelled():  # its turn came at the same moment
                self._leave()
            else:
                with suppress(ValueError):
                    self._waiting.remove(item)
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, ready = self._waiting.popleft()
            if not ready.done():
                ready.set_result(None)
                return
        self._free += 1
