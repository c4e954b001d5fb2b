"""Blocking work in threads: what a cancelled caller can rely on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from corral.adapters.system.blocking_work import Stopped, in_thread, stop_if_asked


def test_a_caller_cancelled_twice_still_waits_and_undoes() -> None:
    """However often the caller is cancelled, the thread's result is passed to `undo` before the caller continues."""
    begun, go_on = threading.Event(), threading.Event()
    undone: list[str] = []

    def work(stop: threading.Event) -> str:
        begun.set()
        assert go_on.wait(5)
        return "a lock"

    async def main() -> None:
        task = asyncio.create_task(in_thread(work, undone.append))
        assert await asyncio.to_thread(begun.wait, 5)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert undone == ["a lock"]

    asyncio.run(main())


def test_a_closing_event_loop_waits_for_the_thread() -> None:
    """`asyncio.run` cancels every task at its end; the work is told to stop, and is over when it returns."""
    begun, ended = threading.Event(), threading.Event()

    def work(stop: threading.Event) -> None:
        begun.set()
        try:
            assert stop.wait(5)
            stop_if_asked(stop)
        finally:
            ended.set()

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(in_thread(work))
        assert await asyncio.to_thread(begun.wait, 5)
        return task

    task = asyncio.run(main())
    assert task.cancelled()
    assert ended.is_set()


def test_errors_pass() -> None:
    """An exception from the work is raised in the caller."""

    def work(stop: threading.Event) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        asyncio.run(in_thread(work))
