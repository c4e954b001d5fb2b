"""Remembers how much was needed lately, so that what has not been needed for a while can be given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ("RecentNeeds",)


class RecentNeeds:
    """`levels` are the sizes that can be had, in increasing order. Those not needed for `keep_s` seconds are spare."""

    def __init__(self, levels: Sequence[int], keep_s: float, clock_s: Callable[[], float]) -> None:
        self._levels = levels
        self._keep_s = keep_s
        self._clock_s = clock_s
        self._exceeded_at = {level: -keep_s + clock_s() for level in levels}

    @property
    def most(self) -> int:
        return self._levels[-1]

    def level(self, need: int) -> int:
        """The smallest level that is enough, or the largest one."""
        return next((level for level in self._levels if level >= need), self._levels[-1])

    def note(self, need: int) -> None:
        """So much is needed now."""
        now = self._clock_s()
        for level in self._levels:
            if level >= need:
                break
            self._exceeded_at[level] = now

    def lately(self) -> int:
        """The smallest level that was enough for the last `keep_s` seconds."""
        since = self._clock_s() - self._keep_s
        return next((level for level in self._levels[:-1] if self._exceeded_at[level] <= since), self._levels[-1])

    def spare_in_s(self, size: int) -> float | None:
        """After how many seconds without need a smaller level than `size` will do; None if it is the smallest."""
        smaller = [self._exceeded_at[level] for level in self._levels if level < size]
        return max(0.0, smaller[-1] + self._keep_s - self._clock_s()) if smaller else None
