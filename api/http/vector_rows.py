"""Answers with many vectors, sent a few rows at a time, because vectors as text take five times the memory."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence

from litestar.types import Receive, Scope, Send

from corral.api.http.errors import JSON
from corral.core.requests.outputs import Vectors
from corral.core.requests.vectors import rows

__all__ = ("VectorRows",)

_ROWS_PER_TURN = 32


class VectorRows:
    """An ASGI application: `head`, the rows as `written` encodes them, given their index, with commas, and `tail`."""

    def __init__(
        self,
        vectors: Vectors,
        written: Callable[[int, array[float]], bytes],
        *,
        head: bytes,
        tail: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self._vectors = vectors
        self._written = written
        self._head = head
        self._tail = tail
        self._headers = ((b"content-type", JSON.encode()), *headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = [self._head]
        is_started = False
        for index, row in enumerate(rows(self._vectors)):
            parts += [b"," if index else b"", self._written(index, row)]
            if (index + 1) % _ROWS_PER_TURN == 0:
                if not is_started:
                    is_started = True
                    await self._start(send)
                await send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
                await asyncio.sleep(0)
                parts = []
        body = b"".join([*parts, self._tail])
        if not is_started:
            await self._start(send, (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Send, *more: tuple[bytes, bytes]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [*self._headers, *more]})
