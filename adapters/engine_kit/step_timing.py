"""Takes the time of a computation: how long it took, and how much of that this process had a processor."""

from __future__ import annotations

import time
from typing import NamedTuple

__all__ = ("StepTime", "Stopwatch")


class StepTime(NamedTuple):
    """`cpu_s` is the processor time of all threads of this process; None if it is unknown."""

    wall_s: float
    cpu_s: float | None = None


class Stopwatch:
    """Runs from its creation on."""

    def __init__(self) -> None:
        self._cpu_s = time.process_time()
        self._wall_s = time.perf_counter()

    def read(self) -> StepTime:
        wall_s = time.perf_counter() - self._wall_s
        return StepTime(wall_s, time.process_time() - self._cpu_s)
