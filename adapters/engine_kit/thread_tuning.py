"""Adjusts the number of threads to what is currently fastest.

On a shared machine, more threads can be slower: ggml's threads wait for each other at every operation, so that one
suspended thread delays all. The sign is a step that suddenly takes longer than usual for its kind. Then fewer threads
are tried for a few steps, and kept if they are faster; while fewer run, more are tried from time to time. Texts do not
depend on the number of threads: ggml divides work by rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

__all__ = ("ThreadTuner", "available_cpus", "threads_for")

_TRIAL_STEPS = 3
_SLOWER = 1.35
_FASTER = 0.95
_TOO_SLOW = 4.0
_RETRY_UP_S = 2.0
_LONGEST_RETRY_S = 60.0
_PATIENCE = 64
_PREFILL = -1  # stands for all prompt chunks, which are measured in seconds per token


def available_cpus() -> int:
    """The number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


def threads_for(num_thread: int) -> int:
    """Interpret the option `num_thread`: 0 or less means one per processor. The result is at most 16, or four per
    processor: threads wait for each other in busy loops, and a hundred threads on two processors would be so slow that
    they seem to hang.
    """
    available = available_cpus()
    return min(num_thread, max(16, 4 * available)) if num_thread > 0 else available


def _median(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


class _Trial:
    """A trial of another number of threads, on steps with the same number of tokens."""

    def __init__(self, tokens: int, instead_of: int, before: float) -> None:
        self.tokens = tokens
        self.instead_of = instead_of
        self.before = before
        self.seconds: list[float] = []
        self.others = 0


class ThreadTuner:
    """Is given the time of each decode, and returns the number of threads for the next one.

    Only steps with the same number of tokens are compared. `most` is the largest number it tries, and the only one if
    it is `fixed`.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic, *, fixed: bool = False) -> None:
        self.threads = most
        self._tunes = most > 1 and not fixed
        self._most = most
        self._clock = clock
        self._usual: dict[int, float] = {}
        self._recent: dict[int, list[float]] = {}
        self._trial: _Trial | None = None
        self._retry_s = _RETRY_UP_S
        self._next_retry = 0.0

    def begin(self, time_decode: Callable[[int], float]) -> int:
        """Compare all threads with one, so that a busy machine loads quickly; return the number to start with."""
        if self._tunes:
            time_decode(1)  # the first run reads the weights
            alone = time_decode(1)
            together = time_decode(self._most)
            if alone < together < alone * _TOO_SLOW:  # it may be chance
                together = time_decode(self._most)
            self.threads = self._most if together <= alone else 1
            self._next_retry = self._clock() + self._retry_s
        return self.threads

    def record_prefill(self, tokens: int, seconds: float) -> int:
        """Record the time of a prompt chunk.

        Tokens cost more deeper in a prompt, so that only a large change counts.
        """
        if not self._tunes:
            return self.threads
        per_token = seconds / tokens
        usual = self._usual.get(_PREFILL)
        if usual is None or per_token < usual:
            self._usual[_PREFILL] = per_token
            return self.threads
        if self._trial is None and per_token < usual * _TOO_SLOW:
            return self.threads
        return self.record(_PREFILL, per_token)

    def record(self, tokens: int, seconds: float) -> int:
        """Record the time of a decode of `tokens` tokens; return the number of threads for the next one."""
        if not self._tunes:
            return self.threads
        if self._trial is not None:
            return self._judge(self._trial, tokens, seconds)
        recent = self._recent.setdefault(tokens, [])
        recent.append(seconds)
        usual = self._usual.get(tokens)
        # One step of several times the usual length is enough: a prompt's steps are few and long.
        if len(recent) < _TRIAL_STEPS and (usual is None or seconds < usual * _TOO_SLOW):
            return self.threads
        now = _median(recent)
        recent.clear()
        if self.threads == self._most and (usual is None or now < usual):
            self._usual[tokens] = usual = now
        if usual is not None and now > usual * _SLOWER and self.threads > 1:
            return self._try(tokens, self.threads - 1 if self.threads <= 4 else self.threads * 3 // 4, now)
        if self.threads < self._most and self._clock() >= self._next_retry:
            return self._try(tokens, self._most, now)
        return self.threads

    def _try(self, tokens: int, threads: int, before: float) -> int:
        self._trial = _Trial(tokens, self.threads, before)
        self.threads = threads
        return threads

    def _judge(self, trial: _Trial, tokens: int, seconds: float) -> int:
        if tokens != trial.tokens:
            trial.others += 1
            if trial.others > _PATIENCE:  # there are no more steps of this kind
                self._trial, self.threads = None, trial.instead_of
            return self.threads
        trial.seconds.append(seconds)
        hopeless = seconds > trial.before * _TOO_SLOW
        if len(trial.seconds) < _TRIAL_STEPS and not hopeless:
            return self.threads
        self._trial = None
        went_up = self.threads > trial.instead_of
        if not hopeless and _median(trial.seconds) <= trial.before * _FASTER:
            self._retry_s = _RETRY_UP_S
        else:
            self.threads = trial.instead_of
            if went_up:
                self._retry_s = min(self._retry_s * 2, _LONGEST_RETRY_S)
            elif self.threads == self._most:
                # Slower with any number of threads: the machine itself has become slower.
                self._usual[trial.tokens] = trial.before
        self._next_retry = self._clock() + self._retry_s
        return self.threads
