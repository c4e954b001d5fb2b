"""Limits the memory that all request bodies use together, and returns it to the system afterwards.

A body counts as bytes while it is read and decoded, and as values until its request has ended. A request that finds
no room waits without reading from its connection; after a while it gets the answer that the server is busy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from litestar.types import ASGIApp, Receive, Scope, Send

from corral.api.http.errors import ApiError
from corral.api.http.json_shape import JsonShape
from corral.core.errors import ServerBusy
from corral.core.freed_memory import map_big_blocks, return_free_memory

__all__ = ("BodyMemory", "BytesRead")

T = TypeVar("T")

_KEY = "corral.body_bytes"
_PATIENCE_S = 10.0
_MOST_LOADING = 4
_SLOW_AFTER_S = 30.0
_TRIM_FROM_BYTES = 1024 * 1024
_TRIM_AFTER_S = 0.5
_BUSY = "server busy, please try again: other requests fill the memory for request bodies"


class _Pool:
    """A number of bytes that can be taken, first come, first served."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.taken_bytes = 0
        self._waiting: dict[asyncio.Future[None], tuple[int, Callable[[], bool]]] = {}

    async def take(self, size_bytes: int, exempt: Callable[[], bool] = lambda: False) -> None:
        """Raises `ServerBusy` if there is no room for a while. A taker whose `exempt` returns true does not wait."""
        if exempt() or (not self._waiting and self._fits(size_bytes)):
            self.taken_bytes += size_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = (size_bytes, exempt)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await turn
        except BaseException as error:
            if self._waiting.pop(turn, None) is None:  # its turn came at the same moment
                self.taken_bytes -= size_bytes
            self.let_in()
            if isinstance(error, TimeoutError):
                raise ServerBusy(_BUSY) from None
            raise

    def give(self, size_bytes: int) -> None:
        self.taken_bytes -= size_bytes
        self.let_in()

    def let_in(self) -> None:
        """Wakes those that may continue now."""
        is_open = True
        for turn, (size_bytes, exempt) in list(self._waiting.items()):
            is_open = is_open and self._fits(size_bytes)
            if (is_open or exempt()) and not turn.done():
                self.taken_bytes += size_bytes
                del self._waiting[turn]
                turn.set_result(None)

    def _fits(self, size_bytes: int) -> bool:
        return self.taken_bytes + size_bytes <= self.capacity_bytes


class BytesRead:
    """The bytes of one body that is being read. A context manager that gives them back on exit.

    Raises `ApiError` 408 if the body arrives slowly while another one finds no room, and 499 once the client has
    left: a request that waits for room does not read, and would not notice.
    """

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._time = asyncio.timeout(None)
        self.since_s = time.monotonic()
        self._has_left = False
        self.is_whole = False
        """Set once no more is to come."""
        self.taken_bytes = 0

    async def add(self, size_bytes: int) -> None:
        """Waits for room. The body that began first never waits, so that one of many large ones can finish."""
        began_s = time.monotonic()
        try:
            await self._memory.raw.take(size_bytes, self._is_first)
        except ServerBusy:
            if not self._memory.drop_slow_body():
                raise
            await self._memory.raw.take(size_bytes, self._is_first)
        self.taken_bytes += size_bytes
        self.since_s += time.monotonic() - began_s  # the client did not cause this wait

    def drop(self) -> None:
        self._time.reschedule(0)

    def leave(self) -> None:
        """The client has left. Does nothing once the body has been read."""
        if self in self._memory.reading:
            self._has_left = True
            self.drop()

    def _is_first(self) -> bool:
        return next(iter(self._memory.reading)) is self

    async def __aenter__(self) -> Self:
        await self._time.__aenter__()
        self._memory.reading[self] = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._memory.reading[self]
        self._memory.raw.give(self.taken_bytes)
        try:
            await self._time.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._has_left:
                raise ApiError(499, "request canceled") from None
            raise ApiError(408, "the body of the request took too long, and other requests need its memory") from None


class BodyMemory:
    """Wraps an ASGI application whose routes take memory for the values they decode, and give it back when they end.

    All bodies together may use `max_body_bytes` as values; and as bytes half of that, plus one more body.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self.raw = _Pool(max_body_bytes // 2)
        self.reading: dict[BytesRead, None] = {}
        self.decoded = _Pool(max_body_bytes)
        self.loading = asyncio.Semaphore(_MOST_LOADING)
        """For whoever loads what earlier requests have left, and takes room for it once its size is known."""
        self._counting = asyncio.Lock()
        # One body at a time: decoding holds the interpreter lock, so more threads would only delay everything else.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        self._trim: asyncio.TimerHandle | None = None
        self._is_closed = False
        map_big_blocks()

    def wrapped(self, app: ASGIApp) -> ASGIApp:
        """Wraps `app` so that the memory that `take` took for a request is given back when the request ends."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                self.give(scope)

        return call

    async def count(self, shape: JsonShape, chunk: bytes | bytearray) -> None:
        """Counts one chunk per turn of the event loop, so that many large bodies delay others no more than one does."""
        async with self._counting:
            shape.feed(chunk)
            await asyncio.sleep(0)

    async def take(self, scope: Scope, size_bytes: int) -> None:
        """Takes room for values until the request of `scope` has ended, beside what it has taken before. More than the
        capacity counts as the capacity.

        Raises `ServerBusy`.
        """
        taken_bytes = scope["state"].get(_KEY, 0)
        size_bytes = min(size_bytes, self.decoded.capacity_bytes - taken_bytes)
        await self.decoded.take(size_bytes)
        scope["state"][_KEY] = taken_bytes + size_bytes

    def drop_slow_body(self) -> bool:
        """Gives up the largest of the bodies that have been arriving for a long time. False if there is none."""
        patient_since_s = time.monotonic() - _SLOW_AFTER_S
        slow = [body for body in self.reading if not body.is_whole and body.since_s < patient_since_s]
        if slow:
            max(slow, key=lambda body: body.taken_bytes).drop()
        return bool(slow)

    async def run(self, decode: Callable[[], T]) -> T:
        """Runs `decode` in a thread that only decodes, so that neither the store nor templates wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._decoder, decode)

    def give(self, scope: Scope) -> None:
        """Gives back what was taken for the request of `scope`, if anything was."""
        self._give(scope.get("state", {}).pop(_KEY, 0))

    def _give(self, size_bytes: int) -> None:
        if size_bytes:
            self.decoded.give(size_bytes)
        if size_bytes >= _TRIM_FROM_BYTES and self._trim is None and not self._is_closed:
            self._trim = asyncio.get_running_loop().call_later(_TRIM_AFTER_S, self._trim_now)

    def hand_over(self, scope: Scope) -> Callable[[], None]:
        """What was taken for the request of `scope` is not given back when that ends, but by the function returned,
        which is to be called once."""
        size_bytes = scope["state"].pop(_KEY, 0)
        return lambda: self._give(size_bytes)

    def close(self) -> None:
        """Ends the thread, without waiting. To be called when no request is running; memory may still be given back."""
        self._is_closed = True
        if self._trim is not None:
            self._trim.cancel()
        self._decoder.shutdown(wait=False)

    def _trim_now(self) -> None:
        self._trim = None
        self._decoder.submit(return_free_memory)
