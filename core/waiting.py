"""Waits for work in a thread so that cancelling the waiting task never abandons the work."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TypeVar

__all__ = ("until_done",)

T = TypeVar("T")


async def until_done(job: asyncio.Future[T], stop: threading.Event) -> T:
    """The result of `job`, which runs in a thread. A caller that is cancelled, however often, sets `stop` and waits.

    `job` is a future, not a task: a closing event loop cancels all of its tasks, and must not cancel this one.
    """
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        stop.set()
        while not job.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([job])
        if not job.cancelled():
            job.exception()  # nobody else looks
        raise
