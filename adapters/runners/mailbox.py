"""The outputs of one request, between the runner that adds them and the task that reads them."""

from __future__ import annotations

import asyncio

from corral.adapters.runners.outbox import merged
from corral.core.errors import ErrorInfo
from corral.core.requests.outputs import Output

__all__ = ("Mailbox",)

_COMPACT_AT = 256


class Mailbox:
    """Filled by the runner and read by one task of the same event loop. For a slow reader, deltas are merged."""

    __slots__ = ("_emptied", "_items", "_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: list[Output | ErrorInfo] = []
        self._waiter: asyncio.Future[None] | None = None
        self._emptied: asyncio.Future[None] | None = None

    def put(self, item: Output | ErrorInfo) -> None:
        items = self._items
        items.append(item)
        if len(items) == 1:
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        elif len(items) >= _COMPACT_AT:
            self._items = merged(items)

    async def take(self) -> list[Output | ErrorInfo]:
        """Return everything available, with deltas merged; if there is nothing, wait for the first output."""
        if not self._items:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._items = self._items, []
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
        return items if len(items) == 1 else merged(items)

    async def emptied(self) -> None:
        """Wait until everything has been taken. For one task at a time."""
        if self._items:
            self._emptied = self._loop.create_future()
            try:
                await self._emptied
            finally:
                self._emptied = None
