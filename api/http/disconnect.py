"""Notices that a client has gone, and cancels what was being done for it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from litestar.types import Receive

from corral.core.errors import Cancelled

__all__ = ("CancelOnDisconnect",)


class CancelOnDisconnect:
    """While the block runs, a client that goes away cancels it; the block then raises `Cancelled`.

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
        # Somebody else may have cancelled the task as well (a shutdown); that one must go on.
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise Cancelled("the client went away") from error

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
