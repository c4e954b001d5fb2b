"""A request whose body is written piece by piece while it is being sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

from corral.adapters.registries.oci.connection_pool import Body, Response
from corral.core.errors import CorralError, SourceError, SourceUnavailable

__all__ = ("OneRequest",)

_AHEAD = 2


class OneRequest:
    """`send` makes the request with a body, which can be read once. `ended_early` is the error of a cut one."""

    def __init__(self, send: Callable[[Body], Coroutine[Any, Any, Response]], ended_early: str) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
        self._ended_early = ended_early
        self._is_read = False
        self._request = asyncio.create_task(send(self._body))

    async def write(self, data: bytes) -> None:
        """Waits while the other side is slow. Raises what the request raised, if it has ended."""
        await self._put(data)

    async def finish(self) -> Response:
        """The answer to the whole."""
        await self._put(None)
        return await self._request

    async def abort(self) -> None:
        """Breaks off."""
        self._request.cancel()
        with suppress(asyncio.CancelledError, CorralError):
            answer = await self._request
            await answer.aclose()

    async def _put(self, piece: bytes | None) -> None:
        if self._pieces.full():
            putting = asyncio.create_task(self._pieces.put(piece))
            try:
                await asyncio.wait((putting, self._request), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not putting.done():
                    putting.cancel()
        else:
            self._pieces.put_nowait(piece)
        if self._request.done() and piece is not None:
            answer = self._request.result()  # raises what it raised
            await answer.aclose()
            raise SourceUnavailable(f"{self._ended_early}: {answer.status}", "try again")

    async def _body(self) -> AsyncIterator[bytes]:
        if self._is_read:
            raise SourceError("the upload cannot be sent again from its beginning", "push again")
        self._is_read = True
        while (piece := await self._pieces.get()) is not None:
            yield piece
