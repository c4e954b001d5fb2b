"""Detects, while a request is answered, that its client has left or stopped reading, or that the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from litestar.types import ASGIApp, Receive, Scope, Send

from corral.api.http.request_log import request_log
from corral.core.errors import Cancelled, ServerBusy
from corral.core.scheduling.resident import SHUTTING_DOWN

__all__ = (
    "CLIENT_LEFT",
    "READER_STALLED",
    "CancelOnDisconnect",
    "cancelled_on_disconnect",
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

    Works like `asyncio.timeout`, so a stream pays nothing per chunk. Does nothing on servers without `CLIENT_LEFT`.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._gone = False
        self._ended = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is served in a task")
        self._task = task
        self._cancelling = task.cancelling()
        when_client_leaves(self._scope, self._leave)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        if self._gone:
            self._task.uncancel()
        stops = self._task.cancelling() > self._cancelling
        if kind is asyncio.CancelledError and stops:
            self._task.uncancel()
            raise ServerBusy(SHUTTING_DOWN) from error
        if kind is asyncio.CancelledError and self._gone:
            raise Cancelled("the client went away") from error

    def _leave(self) -> None:
        if not self._ended:
            self._gone = True
            self._task.cancel()


def cancelled_on_disconnect(app: ASGIApp) -> ASGIApp:
    """Middleware that cancels a route, at whatever it awaits, when its client disconnects before it has the response.

    When the server stops and the grace period is over, the route is cancelled as well: the client gets an error, or
    sees that the response is cut off.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with CancelOnDisconnect(scope):
                await app(scope, receive, send)
        except Cancelled:
            if request_log(scope).status is None:
                raise
        except ServerBusy:
            if request_log(scope).status is None:
                raise
            raise asyncio.CancelledError from None

    return call


def when_client_leaves(scope: Scope, callback: Callable[[], None]) -> None:
    """Calls `callback` when the connection closes before the response has been sent, if the server can tell.

    That includes the time while the body is still being read. If the connection is closed already, `callback` is called
    in the next turn of the event loop.
    """
    extension: dict[Any, Any] | None = (scope.get("extensions") or {}).get(CLIENT_LEFT)
    if extension is not None:
        extension["call"](callback)


def when_reader_stalls(scope: Scope, callback: Callable[[], None]) -> None:
    """Calls `callback` once a second while the client reads nothing of its response, if the server can tell."""
    extension: dict[Any, Any] | None = (scope.get("extensions") or {}).get(READER_STALLED)
    if extension is not None:
        extension["call"](callback)
