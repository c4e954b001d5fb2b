"""A background event loop that blocking code calls into."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ("FORKED", "Portal")

T = TypeVar("T")

FORKED = (
    "this {name} belongs to the process that created it; its threads and models stayed there after the fork: "
    "create a {name} in each child process, or start children with multiprocessing's 'spawn' method"
)
"""The error for a forked child that uses an object of its parent."""

_CLEAN_UP_S = 5.0  # longer than any engine's step; a call that does not end in this time is abandoned


class Portal:
    """An event loop in a separate thread, for callers on any other thread, whether a loop runs there or not."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._process_id = os.getpid()
        # A daemon thread, so that a program that does not close the portal still exits. Its owner closes it at exit.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def forked(self) -> bool:
        """True in a child process that was forked after this object was created.

        The thread does not exist there, and the lock and the loop may be in any state: the portal cannot be used, and
        need not be closed.
        """
        return os.getpid() != self._process_id

    @property
    def is_current(self) -> bool:
        """True on the loop's own thread."""
        return threading.current_thread() is self._thread

    @property
    def closed(self) -> bool:
        return self._closed

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Awaits ``function()`` on the loop, and blocks until it is done.

        An interrupt of the waiting thread (Ctrl-C) cancels only this call, and is raised once the call has cleaned up,
        so that the caller can continue to use whatever the call used. Raises `RuntimeError` after `close`, in a forked
        child, and on the loop's own thread, which would wait for itself.
        """
        if self.forked:
            raise RuntimeError(FORKED.format(name="Corral"))
        if self.is_current:
            raise RuntimeError(
                "a blocking call on the thread that must answer it would deadlock; await AsyncCorral here"
            )

        call = _Call(function)
        try:
            # Under the lock, so that a call is either refused or scheduled before the loop is told to stop.
            with self._lock:
                if self._closed:
                    call.outcome.set_exception(RuntimeError("this Corral is closed"))
                else:
                    self._loop.call_soon_threadsafe(call.begin)
            return call.outcome.result()
        except BaseException:
            # An interrupt may come anywhere above, even right after the call was scheduled.
            if not call.outcome.done():
                with suppress(RuntimeError):  # the loop has been closed in the meantime
                    self._loop.call_soon_threadsafe(call.cancel)
                    call.finished.wait(_CLEAN_UP_S)
            raise

    def close(self) -> None:
        """Cancels running calls and ends the thread. May be called twice, on any thread; does nothing in a forked
        child.
        """
        if self.forked:
            return
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if not self.is_current:
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


class _Call(Generic[T]):
    """A call: `begin` and `cancel` run on the loop; `outcome` and `finished` are read on the caller's thread.

    Created before it is scheduled, so that it can be cancelled no matter where its caller is interrupted.
    """

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self.outcome: Future[T] = Future()
        self.finished = threading.Event()
        self._function = function
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    def begin(self) -> None:
        if not self._cancelled:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        self._cancelled = True
        if self._task is None:
            self.finished.set()
        else:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            result = await self._function()
        except asyncio.CancelledError:
            raise
        except BaseException as fault:  # an exception that reached the loop would end all calls
            self.outcome.set_exception(fault)
        else:
            self.outcome.set_result(result)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.outcome.cancel()  # no effect on an existing result; a cancelled task has none
        self.finished.set()
