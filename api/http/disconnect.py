"""Notices that a client has gone, or that the server stops, and ends what was being done."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from litestar.types import Receive

from corral.core.errors import Cancelled, ServerBusy

__all__ = ("SHUTTING_DOWN", "CancelOnDisconnect")

SHUTTING_DOWN = "the server is shutting down"


class CancelOnDisconnect:
    """While the block runs, a client that goes away cancels it; the block then raises `Cancelled`.

    A task that is cancelled from outside belongs to a server that stops: the block raises `ServerBusy`, so that the
    client can still be told.

    Works as `asyncio.timeout` does: no second task for the work itself, so a stream pays nothing per chunk. To be
    entered once the request's body has been read; nobody else may call `receive` inside the block.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is served in a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if self._gone:
            self._task.uncancel()
        stops = self._task.cancelling() > self._cancelling
        if kind is asyncio.CancelledError and stops:
            self._task.uncancel()
            raise ServerBusy(SHUTTING_DOWN) from error
        if kind is asyncio.CancelledError and self._gone:
            raise Cancelled("the client went away") from error

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
