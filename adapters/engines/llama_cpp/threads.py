"""Moves the thread count to what is fastest now.

On a shared machine more threads can be slower: llama.cpp's threads wait for each other at every operation, so one
that the system has put aside holds up all. A step that suddenly takes longer than its kind used to is the sign. Then
fewer threads are tried for a few steps, and kept if they are faster; while fewer run, more are tried again from time
to time. Texts do not depend on the thread count: llama.cpp splits work by rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

__all__ = ("ThreadTuner", "available_cpus")

_TRIAL_STEPS = 3
_SLOWER = 1.35
_FASTER = 0.95
_RETRY_UP_S = 2.0
_LONGEST_RETRY_S = 60.0


def available_cpus() -> int:
    """The processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


class ThreadTuner:
    """Told how long each decode took, it answers how many threads the next one should use.

    Steps are compared with steps of the same number of tokens only. `most` is the greatest count it tries.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.threads = most
        self._most = most
        self._clock = clock
        self._usual: dict[int, float] = {}
        self._recent: list[float] = []
        self._trial_of: int | None = None
        self._before_trial = 0.0
        self._trial: list[float] = []
        self._retry_s = _RETRY_UP_S
        self._next_retry = 0.0
        self._tokens = 0

    def record(self, tokens: int, seconds: float) -> int:
        """One decode of so many tokens took so long; returns the thread count for the next."""
        if self._most == 1:
            return 1
        if tokens != self._tokens:
            self._tokens = tokens
            self._abandon_trial()
            self._recent.clear()
            return self.threads
        if self._trial_of is not None:
            return self._judge(seconds)
        self._recent.append(seconds)
        if len(self._recent) < _TRIAL_STEPS:
            return self.threads
        now, self._recent = sorted(self._recent)[len(self._recent) // 2], []
        usual = self._usual.get(tokens)
        if self.threads == self._most and (usual is None or now < usual):
            self._usual[tokens] = usual = now
        if usual is not None and now > usual * _SLOWER and self.threads > 1:
            return self._begin(self.threads - 1 if self.threads <= 4 else self.threads * 3 // 4, now)
        if self.threads < self._most and self._clock() >= self._next_retry:
            return self._begin(self._most, now)
        return self.threads

    def _begin(self, threads: int, before: float) -> int:
        self._trial_of, self._before_trial, self._trial = self.threads, before, []
        self.threads = threads
        return threads

    def _judge(self, seconds: float) -> int:
        self._trial.append(seconds)
        if len(self._trial) < _TRIAL_STEPS:
            return self.threads
        assert self._trial_of is not None
        median = sorted(self._trial)[_TRIAL_STEPS // 2]
        went_up = self.threads > self._trial_of
        if median <= self._before_trial * _FASTER:
            self._retry_s = _RETRY_UP_S
        else:
            self.threads = self._trial_of
            if went_up:
                self._retry_s = min(self._retry_s * 2, _LONGEST_RETRY_S)
            elif self.threads == self._most:
                # Slower with any count: this is how fast the machine is now.
                self._usual[self._tokens] = self._before_trial
        self._next_retry = self._clock() + self._retry_s
        self._trial_of = None
        return self.threads

    def _abandon_trial(self) -> None:
        if self._trial_of is not None:
            self.threads, self._trial_of = self._trial_of, None
