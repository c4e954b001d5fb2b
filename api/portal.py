"""A background event loop that blocking code calls into."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ("FORKED", "Portal")

T = TypeVar("T")

FORKED = (
    "this {name} belongs to the process that created it; its threads and models stayed there after the fork: "
    "create a {name} in each child process, or start children with multiprocessing's 'spawn' method"
)
"""What a forked child is told that uses what its parent made."""

_CLEAN_UP_S = 5.0  # a call that was cancelled before it began never says that it finished


class Portal:
    """One event loop on one thread of its own, for callers on any other thread, a running loop of theirs or not."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._process_id = os.getpid()
        # A daemon: a program that forgets to close still ends. Whoever owns the portal closes it at exit.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def forked(self) -> bool:
        """True in a child process that was forked after this was made. There is no thread behind it then, and its
        lock and its loop's descriptors may be in any state: nothing of it can be used, or needs closing.
        """
        return os.getpid() != self._process_id

    @property
    def closed(self) -> bool:
        return self._closed

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Awaits what `function` gives on the loop, and blocks for it.

        An interrupt of the waiting thread (Ctrl-C) cancels this one call, and is raised once that has cleaned up after
        itself, so that the caller may go on with what the call used; the loop and other calls go on. Raises
        `RuntimeError` after `close`, in a forked child, and on the loop's own thread, which would wait for itself.
        """
        if self.forked:
            raise RuntimeError(FORKED.format(name="Corral"))
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking call on the thread that must answer it would deadlock; await AsyncCorral here"
            )

        finished = threading.Event()

        async def await_it() -> T | _Raised:
            try:
                return await function()
            except (SystemExit, KeyboardInterrupt) as fault:
                # Raised in a task they would end the loop, and with it everybody's calls.
                return _Raised(fault)
            finally:
                finished.set()

        # Under the lock, so that a call is either refused or on the loop before the loop is told to stop.
        with self._lock:
            if self._closed:
                raise RuntimeError("this Corral is closed")
            future = asyncio.run_coroutine_threadsafe(await_it(), self._loop)
        try:
            outcome = future.result()
        except BaseException:
            future.cancel()
            finished.wait(_CLEAN_UP_S)
            raise
        if isinstance(outcome, _Raised):
            raise outcome.fault
        return outcome

    def close(self) -> None:
        """Cancels what still runs, and ends the thread. Twice is fine, from any thread; in a forked child it does
        nothing.
        """
        if self.forked:
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


class _Raised:
    """What a call raised that must not pass through the loop."""

    def __init__(self, fault: BaseException) -> None:
        self.fault = fault
