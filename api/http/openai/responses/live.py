"""A response in the background: computed whoever listens, with its events for those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from corral.api.http.answers import AnswerSource
from corral.api.http.openai.dialect import OPENAI
from corral.api.http.openai.responses.run import Keep
from corral.api.http.openai.responses.writer import ResponseWriter
from corral.core.access_errors import TooManyRequests
from corral.core.errors import EngineError
from corral.core.generation.background import Turn

__all__ = ("LiveEvents", "LiveResponse")

_MOST_FOLLOWERS = 16
_RETRY_S = 5.0


class LiveEvents:
    """The events of the response of `writer`, for those who follow it. They outlive what the response was made from."""

    def __init__(self, writer: ResponseWriter) -> None:
        self._writer = writer
        self._events: list[bytes] = []
        self._changed = asyncio.Event()
        self._has_told_end = False
        self._followers = 0

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Somebody follows them within the block. Raises `TooManyRequests` if many do already."""
        if self._followers >= _MOST_FOLLOWERS:
            text = f"the response is followed by {_MOST_FOLLOWERS} requests already"
            raise TooManyRequests(text, "wait until one has ended", retry_after_s=_RETRY_S)
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    def tell(self) -> None:
        """There may be new ones."""
        self._events += self._writer.take()
        self._has_told_end = self._writer.has_concluded
        self._changed.set()

    async def follow(self, first: int) -> AsyncIterator[bytes]:
        """The events from the number `first` on, as they come."""
        while True:
            self._changed.clear()
            while first < len(self._events):
                yield self._events[first]
                first += 1
            if self._has_told_end:
                return
            await self._changed.wait()


class LiveResponse:
    """The response of `writer`, whose answer `open` begins. It is kept when it begins and when it has ended."""

    def __init__(self, writer: ResponseWriter, open: Callable[[], Awaitable[AnswerSource]], keep: Keep) -> None:
        self.writer = writer
        self._open = open
        self._keep = keep
        self.events = LiveEvents(writer)
        self._is_unwanted = False
        self._ending = asyncio.Lock()

    def unwanted(self) -> None:
        """Its client is about to cancel it, which ends it. A server that stops cancels it as well, but can say more
        after the restart."""
        self._is_unwanted = True

    async def begin(self) -> None:
        """Keeps the response before anything is computed, so that a restart does not lose it."""
        self.writer.queue()
        self.events.tell()
        await self._keep(self.writer)

    async def run(self, turn: Turn) -> None:
        """Computes it to its end, once it is its turn. An error ends it as well."""
        writer = self.writer
        try:
            async with turn, await self._open() as answer:
                async for _ in answer:
                    self.events.tell()
            if not writer.has_ended:
                raise EngineError("the answer was cut off", "see the server's log")
        except asyncio.CancelledError:
            if self._is_unwanted:  # kept before it is gone from those in the background
                await self.cancelled()
            raise
        except Exception as error:
            if not writer.has_ended:
                writer.fail(OPENAI.problem(error))
                await self._conclude()
        finally:
            self.events.tell()

    async def cancelled(self) -> None:
        """Ends the response once `run` has been cancelled, unless it had ended before, also if its task never began."""
        async with self._ending:
            if not self.writer.has_ended:
                self.writer.cancel()
            if not self.writer.has_concluded:
                await self._conclude()
            self.events.tell()

    async def _conclude(self) -> None:
        await self._keep(self.writer)
        self.writer.conclude()
