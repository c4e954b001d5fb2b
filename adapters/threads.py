"""Runs blocking work in a thread in a way that survives cancellation of the task that waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ("Stopped", "in_thread", "stop_if_asked")

T = TypeVar("T")


class Stopped(Exception):
    """Raised by `stop_if_asked` inside the thread; the task that waits sees its own cancellation instead."""


def stop_if_asked(stop: threading.Event) -> None:
    """Call between the bounded pieces of a long job."""
    if stop.is_set():
        raise Stopped


async def in_thread(work: Callable[[threading.Event], T], undo: Callable[[T], None] | None = None) -> T:
    """The result of `work`. A cancelled caller sets the event, waits for the thread, and hands its result to `undo`.

    `asyncio.to_thread` alone would leave the thread working on files, and holding locks, that nobody owns any more.
    """
    stop = threading.Event()
    job = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        stop.set()
        with suppress(Exception):
            result = await job
            if undo is not None:
                undo(result)
        raise
