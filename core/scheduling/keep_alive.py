"""How long an idle model stays in memory: `KeepAlive`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

__all__ = ("KeepAlive",)

_LONGEST_TIMER_S = 24 * 3600.0


class KeepAlive:
    """A time to stay after the last use, and its timer, which calls `on_expired`. `duration_s` None means forever."""

    def __init__(
        self, duration_s: float | None, *, clock_s: Callable[[], float], on_expired: Callable[[], object]
    ) -> None:
        self.duration_s = duration_s
        self._clock_s = clock_s
        self._on_expired = on_expired
        self._ends_at_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """Whether a timer is set; never if the time has no end."""
        return self._timer is not None

    @property
    def ends_at_s(self) -> float:
        """When the time that was last started ends, by the clock; infinite if never."""
        return self._ends_at_s

    def end_if_started_now_s(self) -> float:
        """When a time started now would end, by the clock; infinite if never."""
        return math.inf if self.duration_s is None else self._clock_s() + self.duration_s

    def start(self) -> None:
        """Restart the time."""
        self.stop()
        self._ends_at_s = self.end_if_started_now_s()
        self._set_timer()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if not math.isinf(self._ends_at_s):
            wait_s = min(max(0.0, self._ends_at_s - self._clock_s()), _LONGEST_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._time_over)

    def _time_over(self) -> None:
        self._timer = None
        if self._clock_s() >= self._ends_at_s:
            self._on_expired()
        else:
            self._set_timer()
