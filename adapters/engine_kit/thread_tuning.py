"""Adjusts the number of threads to what is currently fastest.

ggml's threads wait for each other at every operation, so that one suspended thread delays all: on a busy machine, more
threads are slower. The sign is processor time that a step did not get, or a step that suddenly takes longer than usual
for its kind. Then fewer threads are tried for a few steps, and kept if they are not slower. All are tried again when
processors are idle; where the system does not say, from time to time. If far more threads want to run than there are
processors, there is one thread from the next step on, without a trial. Texts do not depend on the number of threads:
ggml divides work by rows.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable

from corral.adapters.engine_kit.step_timing import StepTime
from corral.adapters.engine_kit.thread_trials import Interruptions, MissingShare, ThreadTrial
from corral.adapters.system.processors import IdleProcessors, runnable_threads

__all__ = ("ThreadTuner",)

_log = logging.getLogger(__name__)

_TRIAL_STEPS, _TRIAL_S = 3, 0.2  # what ends a trial
_SLOWER = 1.35
_MUCH_SLOWER = 3.0
"""Where the system tells processor times, only steps so many times as long are a sign: they vary by themselves."""
_FASTER = 0.95
_NOT_SLOWER = 1.05
_LITTLE_SLOWER = 1.25
"""Fewer threads may be this much slower where a processor and more is wanted by others: their steps never stall."""
_TOO_SLOW = 4.0
_MISSING, _MUCH_MISSING = 0.3, 0.6  # if a step did not get so many processors, another process wants them
_IDLE = 0.7
_FIRST_LOOK_S, _LOOK_S = 0.1, 0.25
_RETRY_S = 2.0
_LONGEST_RETRY_S = 60.0
_BLIND_S = 30.0
"""How long until more threads are tried though no processor is idle: this process may have the higher priority."""
_PATIENCE = 16
_STEPS_BEFORE = 8  # what a trial is compared with
_CROWD = 2
"""So many runnable threads of others per processor leave one thread's worth for this process."""
_PREFILL = -1  # stands for all prompt chunks, which are measured in seconds per token


def _median(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


class ThreadTuner:
    """Is given the time of each computation, and returns the number of threads for the next one.

    Only steps with the same number of tokens are compared. `most` is the largest number it returns. `idle` returns how
    many processors are idle, `runnable` how many threads of the system want to run; None if that is unknown. Not
    `on_cpu`: another device computes, so that processor times and crowds say nothing.
    """

    def __init__(
        self,
        most: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_cpu: bool = True,
        idle: Callable[[], float | None] | None = None,
        runnable: Callable[[], int | None] = runnable_threads,
    ) -> None:
        self.threads = most
        self._tunes = most > 1
        self._most = most
        self._on_cpu = on_cpu
        self._clock = clock
        self._idle = IdleProcessors(clock) if idle is None else idle
        self._runnable = runnable
        self._crowd = _CROWD * (os.cpu_count() or 1)
        self._usual: dict[int, float] = {}
        self._recent: dict[int, list[float]] = {}
        self._last: deque[tuple[int, float]] = deque(maxlen=_STEPS_BEFORE)
        self._share = MissingShare()
        self._missing: float | None = None
        self._wanted = False  # by others in the last moment: if little is missing, one moment is no sign
        self._refused: float = 0.0  # what was missing when fewer threads turned out slower
        self._trial: ThreadTrial | None = None
        self._up_s, self._down_s = _LOOK_S, _RETRY_S  # the pause after the next trial that fails
        self._next_up = 0.0
        self._next_down = 0.0
        self._next_look = 0.0
        self._says_idle = True
        self._next_blind = 0.0
        self._interruptions = Interruptions()
        self._harmless = False  # the crowd leaves this process its processors: its threads have a lower priority

    @property
    def contended(self) -> bool:
        """Whether other processes want the processors: a step may take several times its usual time."""
        if not self._on_cpu:
            return False
        return (self._tunes and self.threads < self._most) or (self._missing is not None and self._missing > _MISSING)

    def begin(self, time_decode: Callable[[int], float]) -> int:
        """Compare all threads with one, so that a busy machine loads quickly; return the number to start with."""
        if self._tunes:
            if self._crowded():
                self._set(1)
                return 1
            time_decode(1)  # the first run reads the weights
            alone = time_decode(1)
            together = time_decode(self._most)
            if alone < together < alone * _TOO_SLOW:  # it may be chance
                together = time_decode(self._most)
            self._set(self._most if together <= alone else 1)
        return self.threads

    def next_threads(self) -> int:
        """The number of threads for a step that begins now. Cheap; to be called before each."""
        if self._tunes and self.threads > 1 and not self._trying_more:
            crowded = self._crowded()
            self._harmless = self._harmless and crowded
            if crowded and not self._harmless:
                self._trial = None
                self._set(1)
        return self.threads

    def record_prefill(self, tokens: int, took: StepTime) -> int:
        """Record the time of a prompt chunk.

        Tokens cost more deeper in a prompt, so that only a large change counts.
        """
        per_token = took.wall_s / tokens
        expected = self._expected(_PREFILL)
        if self.threads == self._most and (expected is None or per_token < expected):
            self._usual[_PREFILL] = expected = per_token
        slow = per_token if expected is not None and per_token > expected * _TOO_SLOW else None
        return self._record(_PREFILL, per_token, took, slow)

    def record(self, tokens: int, took: StepTime) -> int:
        """Record the time of a decode of `tokens` tokens; return the number of threads for the next one."""
        recent = self._recent.setdefault(tokens, [])
        recent.append(took.wall_s)
        slow = None
        expected = self._expected(tokens)
        # One step of several times the usual length is enough where the system tells no processor times.
        blind = took.cpu_s is None
        if (
            len(recent) >= (_TRIAL_STEPS if blind else _STEPS_BEFORE)
            or (blind and expected is not None and took.wall_s >= expected * _TOO_SLOW)
            or (not blind and sum(recent) >= _TRIAL_S)
        ):
            now = _median(recent)
            recent.clear()
            if self.threads == self._most and self._trial is None and (expected is None or now < expected):
                self._usual[tokens] = expected = now
            limit = _SLOWER if blind else _MUCH_SLOWER
            slow = now if expected is not None and now > expected * limit else None
        return self._record(tokens, took.wall_s, took, slow)

    @property
    def tolerated(self) -> float | None:
        """How many processors may be missing in the step that begins now, before it is better begun again with fewer
        threads. None: it is not to be interrupted, whatever is missing.
        """
        if not self._tunes or self.threads < 2 or not self._on_cpu or self._harmless:
            return None
        if self._trying_more:
            return self._interruptions.tolerated_in_trial(self.threads)
        return self._interruptions.tolerated(self._clock(), self._refused)

    def interrupted(self, took: StepTime) -> int:
        """A computation was given up after `took`, since more than `tolerated` was missing: there are fewer threads
        now, without a trial. Return their number.
        """
        missing = self.threads * took.wall_s - (took.cpu_s or 0.0)
        self._missing = missing / max(took.wall_s, 1e-9)
        if self._trying_more:
            self._pause_trying_more()
        else:
            self._interruptions.interrupted(self._clock())
        self._trial = None
        self._harmless = False
        before = self.threads
        _log.debug("%.1f of %d threads had no processor: interrupted", self._missing, before)
        self._set(max(1, min(before - 1, int(before - self._missing))))
        return self.threads

    @property
    def _trying_more(self) -> bool:
        return self._trial is not None and self._trial.instead_of < self.threads

    def _expected(self, kind: int) -> float | None:
        """The usual time with all threads, times what fewer of them must take longer."""
        usual = self._usual.get(kind)
        return None if usual is None else usual * self._most / self.threads

    def _crowded(self) -> bool:
        runnable = self._runnable() if self._on_cpu else None
        return runnable is not None and runnable - self.threads >= self._crowd

    def _record(self, kind: int, seconds: float, took: StepTime, slow: float | None) -> int:
        self._last.append((kind, seconds))
        lately = [one for its_kind, one in self._last if its_kind == kind]
        before = sum(lately) / len(lately)
        missing = self._share.add(self.threads, took) if self._on_cpu else None
        if missing is not None:
            self._missing = missing
            self._last.clear()
            if self.threads == self._most:
                self._interruptions.note(missing)
        if not self._tunes:
            return self.threads
        now = self._clock()
        if self._trial is not None:
            self._judge(self._trial, kind, seconds, took, missing)
        elif self.threads > 1 and missing is not None and self._wanted_by_others(missing, now):
            limit = _LITTLE_SLOWER if missing > _MUCH_MISSING else _NOT_SLOWER
            self._try(kind, max(1, min(self.threads - 1, int(self.threads - missing))), before, limit)
        elif self.threads > 1 and slow is not None and now >= self._next_down:
            self._try(kind, self.threads - 1 if self.threads <= 4 else self.threads * 3 // 4, slow, _FASTER)
        elif self.threads < self._most and now >= self._next_look:
            self._look_up(kind, before, now)
        return self.threads

    def _wanted_by_others(self, missing: float, now: float) -> bool:
        wanted = missing > (_MISSING if now >= self._next_down else max(_MISSING, 1.5 * self._refused))
        lasts, self._wanted = self._wanted, wanted
        return wanted and (lasts or missing > _MUCH_MISSING)

    def _look_up(self, kind: int, before: float, now: float) -> None:
        """Try more threads if there are idle processors for them."""
        paused = now > self._next_look + 1.0
        self._next_look = now + (_FIRST_LOOK_S if paused else _LOOK_S)
        idle = self._idle()
        if paused and idle is not None:
            return  # it says what was idle during the pause
        self._says_idle = idle is not None
        if now < self._next_up:
            return
        if idle is None or (now >= self._next_blind and not self._crowded()):
            self._try(kind, self._most, before, _FASTER)
        elif idle >= _IDLE:
            self._try(kind, min(self._most, self.threads + round(idle)), before, _FASTER)

    def _try(self, kind: int, threads: int, before: float, limit: float) -> None:
        self._trial = ThreadTrial(kind, self.threads, before, limit, self._missing or 0.0)
        self._set(threads)

    def _set(self, threads: int) -> None:
        if threads < self.threads:
            self._idle()  # the time until now was with more threads
            self._next_look = self._clock() + _FIRST_LOOK_S
        self._next_blind = self._clock() + _BLIND_S
        if threads != self.threads:
            _log.debug("%d of %d threads compute now", threads, self._most)
        self.threads = threads
        self._share.forget()
        self._recent.clear()
        self._last.clear()

    def _judge(self, trial: ThreadTrial, kind: int, seconds: float, took: StepTime, missing: float | None) -> None:
        went_up = self._trying_more
        hopeless = went_up and missing is not None and missing > _MISSING
        if kind != trial.kind and not hopeless:
            trial.others += 1
            if trial.others > _PATIENCE:  # there are no more steps of this kind
                self._trial = None
                self._set(min(trial.instead_of, self.threads))
            return
        trial.seconds.append(seconds)
        trial.wall_s += took.wall_s
        hopeless = hopeless or seconds > trial.before * _TOO_SLOW
        if len(trial.seconds) < _TRIAL_STEPS and trial.wall_s < _TRIAL_S and not hopeless:
            return
        self._trial = None
        if not hopeless and sum(trial.seconds) / len(trial.seconds) <= trial.before * trial.limit:
            self._harmless = went_up
            self._refused = 0.0
            if went_up:
                self._up_s = _LOOK_S
            else:
                self._down_s = _RETRY_S
                self._next_up = self._clock() + (0.0 if self._says_idle else _RETRY_S)
            return
        self._set(trial.instead_of)
        if went_up:
            self._pause_trying_more()
            return
        self._refused = trial.missing
        self._next_down = self._clock() + self._down_s
        self._down_s = min(self._down_s * 2, _LONGEST_RETRY_S)
        if self.threads == self._most and kind != _PREFILL:
            # Slower with any number of threads: the machine itself has become slower.
            self._usual[kind] = trial.before

    def _pause_trying_more(self) -> None:
        self._next_up = self._clock() + (self._up_s if self._says_idle else max(self._up_s, _RETRY_S))
        self._up_s = min(self._up_s * 2, _LONGEST_RETRY_S)
