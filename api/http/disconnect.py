"""Notices that a client has gone or stands still, or that the server stops, while it is being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from litestar.types import Receive, Scope

from corral.core.errors import Cancelled, ServerBusy

__all__ = (
    "CLIENT_LEFT",
    "READER_STALLED",
    "SHUTTING_DOWN",
    "CancelOnDisconnect",
    "when_client_leaves",
    "when_reader_stalls",
)

CLIENT_LEFT = "corral.client_left"
"""The ASGI extension that `when_client_leaves` needs of a server."""

READER_STALLED = "corral.reader_stalled"
"""The ASGI extension that `when_reader_stalls` needs of a server."""

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


def when_client_leaves(scope: Scope, callback: Callable[[], None]) -> None:
    """Has `callback` called when the connection closes, be its body still read or not, if the server can tell."""
    extension: dict[Any, Any] | None = (scope.get("extensions") or {}).get(CLIENT_LEFT)
    if extension is not None:
        extension["call"](callback)


def when_reader_stalls(scope: Scope, callback: Callable[[], None]) -> None:
    """Has `callback` called once a second while the client reads nothing of its answer, if the server can tell."""
    extension: dict[Any, Any] | None = (scope.get("extensions") or {}).get(READER_STALLED)
    if extension is not None:
        extension["call"](callback)
