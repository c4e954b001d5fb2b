"""What a `ThreadTuner` notes: processor time that steps did not get, the steps of a trial, and interruptions."""

from __future__ import annotations

import math
import time

from corral.adapters.engine_kit.step_timing import StepTime

__all__ = ("Interruptions", "MissingShare", "ThreadTrial")

_RISE = 0.02
_WORTH_IT = 0.6
_UNKNOWN = 0.1
_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
_FALSE_ALARM_S = 1.0
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


class Interruptions:
    """How many processors may be missing in a step with all threads before it is begun again with fewer.

    Some are always missing if processors differ in speed, or a quota halts the threads.
    """

    def __init__(self) -> None:
        self._ordinary: float | None = None
        self._pause_s = _PAUSE_S
        self._next_s = -math.inf

    def note(self, missing: float) -> None:
        """Steps with all threads have ended, in which so many processors were missing."""
        self._ordinary = missing if self._ordinary is None else min(missing, self._ordinary + _RISE)

    def tolerated(self, now_s: float, refused: float) -> float | None:
        """None: any number. `refused`: what was missing when fewer threads were slower nevertheless."""
        if self._ordinary is None or now_s < self._next_s:
            return None
        return max(self._ordinary, refused) + _WORTH_IT

    def tolerated_in_trial(self, threads: int) -> float:
        """The same while more threads are only being tried, which may be interrupted at any time."""
        ordinary = _UNKNOWN * threads if self._ordinary is None else self._ordinary
        return ordinary + _WORTH_IT

    def interrupted(self, now_s: float) -> None:
        """A step has been. If all threads are back at once and are interrupted again, others are not the cause."""
        false_alarm = now_s - self._next_s < _FALSE_ALARM_S
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S) if false_alarm else _PAUSE_S
        self._next_s = now_s + self._pause_s
