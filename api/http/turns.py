"""Lets connections with more to do go on in turns, a few in each turn of the event loop.

A client that has sent ahead keeps the server as busy as it can be. Hundreds of such clients would fill each turn of
the loop, and everybody else's request takes several of those.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

__all__ = ("Turns",)

_AT_ONCE = 4


class Turns:
    """First come, first served. For one event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()
        self._is_scheduled = False

    def wait(self, who: object, go_on: Callable[[], None]) -> None:
        """Has `go_on` called when it is the turn of `who`, who waits for one turn at a time."""
        self._waiting[who] = go_on
        self._schedule()

    def forget(self, who: object) -> None:
        """`who` no longer waits; nothing happens if it did not."""
        self._waiting.pop(who, None)

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_scheduled = False
        for _ in range(min(_AT_ONCE, len(self._waiting))):
            if not self._waiting:  # the one before made others leave
                break
            _, go_on = self._waiting.popitem(last=False)
            go_on()
        self._schedule()
