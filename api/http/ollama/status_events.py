"""Sends the progress of a long operation, such as a pull: as lines while it runs, or as one object at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from litestar.types import Receive, Scope, Send

from corral.api.http.disconnect import CancelOnDisconnect
from corral.api.http.ollama.dialect import OLLAMA
from corral.api.http.ollama.replies import StatusReply
from corral.api.http.request_log import request_log
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("StatusEvents",)

_INTERVAL_S = 0.06  # Ollama's own

_encode = msgspec.json.Encoder().encode


class StatusEvents:
    """An ASGI response. `work` reports its progress and returns the last event; nothing happens before it is called.

    Lines are sent at most every 60 ms; of what happens to one blob in between, only the latest state is sent. Errors
    before the first event are raised, and answered by the dialect; later ones become the last line. If the client
    disconnects, the work is cancelled.
    """

    def __init__(self, work: Callable[[OnProgress], Awaitable[StatusReply]], *, stream: bool) -> None:
        self._work = work
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._stream:
            await self._send_lines(scope, send)
            return
        async with CancelOnDisconnect(scope):
            body = _encode(await self._work(lambda progress: None))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_lines(self, scope: Scope, send: Send) -> None:
        lines = _Lines(send)
        try:
            async with CancelOnDisconnect(scope):
                sender = asyncio.create_task(lines.send_until_closed())
                try:
                    last = _encode(await self._work(lines.add))
                    lines.close()
                    await sender
                finally:
                    sender.cancel()
                    await asyncio.wait([sender])
        except Exception as error:
            if not lines.begun:
                raise
            problem = OLLAMA.problem(error)
            request_log(scope).failed(error, problem.text)
            last = OLLAMA.body(problem)
        await lines.send_last(last)


class _Lines:
    """Events that wait to be sent. There is at most one for each count of bytes, however slowly the client reads."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: dict[tuple[str, str | None, int], FetchProgress] = {}
        self._added = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._started = False

    @property
    def begun(self) -> bool:
        """Whether anything was reported, so that the response is a stream."""
        return self._started or bool(self._waiting)

    def add(self, progress: FetchProgress) -> None:
        self._added += 1
        number = self._added if progress.completed_bytes is None else 0
        self._waiting[progress.status, progress.digest, number] = progress
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def send_until_closed(self) -> None:
        while not self._closed:
            await self._changed.wait()
            self._changed.clear()
            await self._send_waiting()
            if not self._closed:
                await asyncio.sleep(_INTERVAL_S)

    async def send_last(self, line: bytes) -> None:
        """Sends what waits, and then the last line."""
        await self._send_waiting()
        await self._start()
        await self._send({"type": "http.response.body", "body": line + b"\n", "more_body": False})

    async def _send_waiting(self) -> None:
        while self._waiting:
            line = _line(self._waiting.pop(next(iter(self._waiting))))
            await self._start()
            await self._send({"type": "http.response.body", "body": line, "more_body": True})

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"application/x-ndjson")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})


def _line(progress: FetchProgress) -> bytes:
    event = StatusReply(
        status=progress.status,
        digest=progress.digest or "",
        total=progress.total_bytes or 0,
        completed=progress.completed_bytes or 0,
    )
    return _encode(event) + b"\n"
