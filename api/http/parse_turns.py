"""Lets connections with unparsed bytes continue in turns, a few in each iteration of the event loop.

A client that pipelines requests always has more to parse. Hundreds of such clients would fill every iteration of the
loop, and every other request takes several iterations.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

__all__ = ("Turns",)

_AT_ONCE = 4


class Turns:
    """A queue of connections, first come, first served. For one event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()
        self._is_scheduled = False

    def wait(self, who: object, go_on: Callable[[], None]) -> None:
        """Calls `go_on` when it is the turn of `who`, which may wait for only one turn at a time."""
        self._waiting[who] = go_on
        self._schedule()

    def forget(self, who: object) -> None:
        """Removes `who` from the queue, if it is there."""
        self._waiting.pop(who, None)

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_scheduled = False
        for _ in range(min(_AT_ONCE, len(self._waiting))):
            if not self._waiting:  # an earlier one may have removed others
                break
            _, go_on = self._waiting.popitem(last=False)
            go_on()
        self._schedule()
