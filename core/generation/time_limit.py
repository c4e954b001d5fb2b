"""Ends an answer that takes too long, once it has a line that is of use."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable

from corral.core.generation.early_end import ended_early
from corral.core.requests.outputs import Delta, Output

__all__ = ("until_late",)


def until_late(
    outputs: AsyncGenerator[Output, None], limit_s: float, clock_s: Callable[[], float] = time.monotonic
) -> AsyncGenerator[Output, None]:
    """The same outputs, to the first that comes later than `limit_s` after the first token, if a line has ended until
    then; as `ended_early`, with the reason ``length``.
    """
    watch = _Watch(limit_s, clock_s)
    return ended_early(outputs, watch.last, "length")


class _Watch:
    def __init__(self, limit_s: float, clock_s: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._clock_s = clock_s
        self._began_s: float | None = None
        self._has_line = False

    def last(self, delta: Delta) -> Delta | None:
        now_s = self._clock_s()
        if self._began_s is None:
            self._began_s = now_s
        self._has_line = self._has_line or "\n" in delta.text
        return delta if self._has_line and now_s - self._began_s > self._limit_s else None
