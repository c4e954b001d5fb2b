"""Runs blocking work in a thread so that cancelling the waiting task never abandons the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from corral.core.waiting import until_done

__all__ = ("Stopped", "in_thread", "stop_if_asked")

T = TypeVar("T")


class Stopped(Exception):
    """Raised by `stop_if_asked` inside the thread; the task that waits sees its own cancellation instead."""


def stop_if_asked(stop: threading.Event) -> None:
    """Call between the bounded pieces of a long job."""
    if stop.is_set():
        raise Stopped


async def in_thread(work: Callable[[threading.Event], T], undo: Callable[[T], None] | None = None) -> T:
    """The result of `work`. If the caller is cancelled, however often, this sets the event and waits; `undo` gets the
    result.

    `asyncio.to_thread` alone would leave the thread working on files, and holding locks, that have no owner any more.
    """
    stop = threading.Event()
    job = asyncio.get_running_loop().run_in_executor(None, work, stop)
    try:
        return await until_done(job, stop)
    except asyncio.CancelledError:
        if not job.cancelled() and job.exception() is None and undo is not None:
            undo(job.result())
        raise
