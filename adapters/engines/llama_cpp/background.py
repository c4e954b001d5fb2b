"""What the engine does while it has no requests: several works, one piece after the other, the most urgent first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

__all__ = ("BackgroundWork", "idle_pieces")

BackgroundWork = Callable[[], float | None]
"""Does a piece of at most 50 ms, and returns when it wants to be called again, as `IdlingEngine.idle` does.

It is called more often than it asks for. Before it is due, it does nothing and returns the time that is left.
"""

_LONG_ENOUGH_S = 0.01
"""After this long, a request that arrived meanwhile is looked for before the next work begins."""


def idle_pieces(works: Sequence[BackgroundWork], clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Call the works in order, and return what `IdlingEngine.idle` returns.

    A work that has more to do (0) holds up those behind it, so that a request waits for one piece only.
    """
    began = clock()
    soonest: float | None = None
    for work in works:
        wait_s = work()
        if wait_s is not None and wait_s <= 0:
            return 0.0
        if wait_s is not None:
            soonest = wait_s if soonest is None else min(soonest, wait_s)
        if clock() - began > _LONG_ENOUGH_S and work is not works[-1]:
            return 0.0
    return soonest
