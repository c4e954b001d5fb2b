"""What a `ThreadTuner` notes: processor time that steps did not get, and the steps of a trial."""

from __future__ import annotations

import time

from corral.adapters.engine_kit.step_timing import StepTime

__all__ = ("MissingShare", "ThreadTrial")

_WINDOW_S = max(0.05, 16 * time.get_clock_info("process_time").resolution)


class MissingShare:
    """How many processors' time is missing in the steps of the last moment, with one number of threads."""

    def __init__(self) -> None:
        self._wall_s = 0.0
        self._missing_s = 0.0

    def add(self, threads: int, took: StepTime) -> float | None:
        """Return what is missing once the steps are long enough to tell; then it begins anew."""
        if took.cpu_s is None:
            return None
        self._wall_s += took.wall_s
        self._missing_s += threads * took.wall_s - took.cpu_s
        if self._wall_s < _WINDOW_S:
            return None
        missing = self._missing_s / self._wall_s
        self.forget()
        return missing

    def forget(self) -> None:
        self._wall_s = self._missing_s = 0.0


class ThreadTrial:
    """A trial of another number of threads, on steps of the same kind. `before`: their time until now.

    `limit`: how many times as long they may take for the trial to succeed. `missing`: processors until now.
    """

    def __init__(self, kind: int, instead_of: int, before: float, limit: float, missing: float) -> None:
        self.kind = kind
        self.instead_of = instead_of
        self.before = before
        self.limit = limit
        self.missing = missing
        self.seconds: list[float] = []
        self.wall_s = 0.0
        self.others = 0
