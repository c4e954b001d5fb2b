"""Detects, while a request is answered, that its client has left or stopped reading, or that the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from litestar.types import Receive, Scope

from corral.core.errors import Cancelled, ServerBusy
from corral.core.scheduling.resident import SHUTTING_DOWN

__all__ = (
    "CLIENT_LEFT",
    "READER_STALLED",
    "CancelOnDisconnect",
    "when_client_leaves",
    "when_reader_stalls",
)

CLIENT_LEFT = "corral.client_left"
"""The ASGI extension that the server must have for `when_client_leaves`."""

READER_STALLED = "corral.reader_stalled"
"""The ASGI extension that the server must have for `when_reader_stalls`."""


class CancelOnDisconnect:
    """Cancels the block when the client disconnects; the block then raises `Cancelled`.

    If the task is cancelled from outside, the server is stopping: the block raises `ServerBusy`, so that the client
    still gets an answer.

    Works like `asyncio.timeout`: the work itself needs no second task, so a stream pays nothing per chunk. Enter it
    after the request's body has been read; nothing else may call `receive` inside the block.
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
    """Calls `callback` when the connection closes, even while the body is still being read, if the server can tell."""
    extension: dict[Any, Any] | None = (scope.get("extensions") or {}).get(CLIENT_LEFT)
    if extension is not None:
        extension["call"](callback)


def when_reader_stalls(scope: Scope, callback: Callable[[], None]) -> None:
    """Calls `callback` once a second while the client reads nothing of its response, if the server can tell."""
    extension: dict[Any, Any] | None = (scope.get("extensions") or {}).get(READER_STALLED)
    if extension is not None:
        extension["call"](callback)
