"""Work for a principal that goes on after its client has left, until it ends, is cancelled, or the server stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Generic, TypeVar

from corral.core.access.limits import RateLimits
from corral.core.access_errors import TooManyRequests
from corral.core.errors import ServerBusy
from corral.core.requests.principal import Principal

__all__ = ("BackgroundWork", "Turn")

SubjectT = TypeVar("SubjectT")

Turn = AbstractAsyncContextManager[None]
Work = Callable[[Turn], Awaitable[None]]
"""What runs: it begins by entering its turn, which it may have to wait for, and should handle its own errors."""

Start = Callable[[str, SubjectT, Work, Callable[[], None]], None]
"""Runs work by its id: `(id, subject, work, ended)`. `subject` is what `find` gives until it has ended; then `ended` is
called, also if it was cancelled before its turn."""

_log = logging.getLogger(__name__)

_MOST = 64
_MOST_EACH = 16
_RETRY_S = 5.0


class BackgroundWork(Generic[SubjectT]):
    """What runs in the background, by the name of its owner and its id. For one event loop.

    A principal has as much at once as its limit of parallel requests says, at most 16; a server, at most 64. What runs
    counts for that limit together with the principal's requests: it waits for its turn.
    """

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._running: dict[tuple[str, str], tuple[SubjectT, asyncio.Task[None]]] = {}
        self._reserved: list[str] = []
        """The owners of what is about to start."""

    @contextmanager
    def place(self, principal: Principal) -> Iterator[Start[SubjectT]]:
        """Keeps a place for the block, in which what it gives may be called once, to run something.

        Raises `TooManyRequests` if the principal has too much in the background, and `ServerBusy` if all have.
        """
        self._require_room(principal)
        self._reserved.append(principal.name)
        try:
            yield partial(self._start, principal)
        finally:
            self._reserved.remove(principal.name)

    def _start(
        self,
        principal: Principal,
        id: str,
        subject: SubjectT,
        work: Work,
        ended: Callable[[], None],
    ) -> None:
        key = (principal.name, id)

        def forget(done: asyncio.Task[None]) -> None:
            self._running.pop(key, None)
            ended()

        task = asyncio.create_task(self._run(principal, work))
        task.add_done_callback(forget)
        self._running[key] = (subject, task)

    def _require_room(self, principal: Principal) -> None:
        owners = [*self._reserved, *(owner for owner, _ in self._running)]
        most = min(_MOST_EACH, principal.limits.parallel or _MOST_EACH)
        if owners.count(principal.name) >= most:
            raise TooManyRequests(
                f"{principal.name!r} may have {most} requests in the background at once",
                "wait until one has ended, or cancel one",
                retry_after_s=_RETRY_S,
            )
        if len(owners) >= _MOST:
            raise ServerBusy(f"{_MOST} requests are running in the background", "wait until one has ended")

    def find(self, owner: str, id: str) -> SubjectT | None:
        """What was said to be worked on; None if that has ended, or was never begun by this owner."""
        found = self._running.get((owner, id))
        return None if found is None else found[0]

    async def cancel(self, owner: str, id: str) -> None:
        """Cancels it, and returns once it has ended. Does nothing if it does not run."""
        found = self._running.get((owner, id))
        if found is not None:
            await _ended([found[1]])

    async def aclose(self) -> None:
        """Cancels everything, and returns once that has ended."""
        await _ended([task for _, task in self._running.values()])

    async def _run(self, principal: Principal, work: Work) -> None:
        try:
            await work(self._limits.turn_in_background(principal))
        except Exception:
            _log.exception("work in the background has failed")


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels tasks, and returns once they have ended."""
    for task in tasks:
        if not task.cancelling():  # a second time would disturb how it ends
            task.cancel()
    if tasks:
        await asyncio.wait(tasks)
