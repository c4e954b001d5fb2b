"""Keeps the connection of a quiet stream alive: clients and proxies give up on one that sends nothing for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

__all__ = ("Pings",)

PERIOD_S = 10.0


class Pings:
    """While the block runs, calls `ping` whenever `sent` has not been called for `period_s`."""

    def __init__(self, ping: Callable[[], Awaitable[None]], period_s: float | None = None) -> None:
        self._ping = ping
        self._period_s = PERIOD_S if period_s is None else period_s
        self._last_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def sent(self) -> None:
        self._last_s = asyncio.get_running_loop().time()

    async def __aenter__(self) -> Self:
        self.sent()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # the client has left, which the stream notices by itself
            while True:
                wait_s = self._last_s + self._period_s - loop.time()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                else:
                    await self._ping()
                    self.sent()
