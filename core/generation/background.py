"""Work for a principal that goes on after its client has left, until it ends, is cancelled, or the server stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from corral.core.access_errors import TooManyRequests
from corral.core.errors import ServerBusy
from corral.core.requests.principal import Principal

__all__ = ("BackgroundWork",)

SubjectT = TypeVar("SubjectT")

_log = logging.getLogger(__name__)

_MOST = 64
_MOST_EACH = 16
_RETRY_S = 5.0


class BackgroundWork(Generic[SubjectT]):
    """What runs in the background, by the name of its owner and its id. For one event loop.

    A principal has as much at once as its limit of parallel requests says, at most 16; a server, at most 64.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], tuple[SubjectT, asyncio.Task[None]]] = {}

    def start(self, principal: Principal, id: str, subject: SubjectT, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work`, which should handle its own errors. `subject` is what `find` gives until it has ended.

        Raises what `require_room` raises; then nothing runs.
        """
        self.require_room(principal)
        key = (principal.name, id)
        task = asyncio.create_task(_run(work))
        task.add_done_callback(lambda done: self._running.pop(key, None))
        self._running[key] = (subject, task)

    def require_room(self, principal: Principal) -> None:
        """Raises `TooManyRequests` if the principal has too much in the background, and `ServerBusy` if all have."""
        own = sum(owner == principal.name for owner, _ in self._running)
        most = min(_MOST_EACH, principal.limits.parallel or _MOST_EACH)
        if own >= most:
            raise TooManyRequests(
                f"{principal.name!r} may have {most} requests in the background at once",
                "wait until one has ended, or cancel one",
                retry_after_s=_RETRY_S,
            )
        if len(self._running) >= _MOST:
            raise ServerBusy(f"{_MOST} requests are running in the background", "wait until one has ended")

    def find(self, owner: str, id: str) -> SubjectT | None:
        """What was said to be worked on; None if that has ended, or was never begun by this owner."""
        found = self._running.get((owner, id))
        return None if found is None else found[0]

    async def cancel(self, owner: str, id: str) -> None:
        """Cancels it, and returns once it has ended. Does nothing if it does not run."""
        found = self._running.get((owner, id))
        if found is not None:
            found[1].cancel()
            await asyncio.wait([found[1]])

    async def aclose(self) -> None:
        """Cancels everything, and returns once that has ended."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except Exception:
        _log.exception("work in the background has failed")
