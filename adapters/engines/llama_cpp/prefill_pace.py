"""How many prompt tokens a step may compute: as many as keep it short, by the speed of the last ones."""

from __future__ import annotations

import time
from collections.abc import Callable

from corral.adapters.engine_kit.step_timing import StepTime
from corral.adapters.engine_kit.thread_tuning import ThreadTuner

__all__ = ("PrefillPace",)

_STEP_GOAL_S = 0.5
"""A step that only prefills takes about this long, so that cancelling is quick."""
_GAP_S = 0.25
"""The time for prompts between two tokens of an answer. Half of the largest piece may take longer: a large model would
compute prompts too slowly otherwise."""
_CONTENDED_GAP_S = 0.2
"""The same while other processes want the processors, where even a short piece may take several times as long."""
_WORTH_TIMING = 16
"""Pieces with at least this many tokens show how fast prompts are computed."""
_STALE_S = 1.0
"""The first piece after such a pause is short: it shows whether the machine has become busy."""
_FIRST_CONTENDED_RATE = 80.0


class PrefillPace:
    """Measures prompts on a quiet and on a busy machine separately, since a machine becomes busy at once."""

    def __init__(
        self,
        tuner: ThreadTuner,
        *,
        fewest: int,
        beside_answers: int,
        largest: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fewest`: what a step may always compute; `beside_answers`: most tokens of one while an answer is being
        generated, `largest`: of any.
        """
        self._tuner = tuner
        self._fewest = fewest
        self._beside_answers = beside_answers
        self._largest = largest
        self._clock = clock
        self._contended_rate = _FIRST_CONTENDED_RATE
        self._last_s: float | None = None
        self._quiet_rate = float(largest)

    @property
    def gap_s(self) -> float:
        """How long other work may keep an answer waiting in a step."""
        return _CONTENDED_GAP_S if self._tuner.contended else _GAP_S

    @property
    def rate(self) -> float:
        """Tokens per second as things are now."""
        return self._contended_rate if self._tuner.contended else self._quiet_rate

    def budget(self, *, answering: bool) -> int:
        """The largest number of prompt tokens in this step: few while an answer is being generated."""
        if self._tuner.contended:
            goal_s, most = (self.gap_s, self._beside_answers) if answering else (_STEP_GOAL_S, self._largest)
            return int(min(most, max(self._fewest, self._contended_rate * goal_s)))
        if answering:
            fewest = max(self._fewest, self._beside_answers // 2)
            return int(min(self._beside_answers, max(fewest, self._quiet_rate * self.gap_s)))
        if self._last_s is None or self._clock() - self._last_s > _STALE_S:
            return self._beside_answers
        return int(min(self._largest, max(self._beside_answers, self._quiet_rate * _STEP_GOAL_S)))

    def record(self, tokens: int, took: StepTime) -> None:
        """Record the time of a piece; the tuner learns from it as well."""
        rate = tokens / max(took.wall_s, 1e-9)
        self._last_s = self._clock()
        if tokens >= _WORTH_TIMING:
            self._tuner.record_prefill(tokens, took)
        if self._tuner.contended:
            # Down at once, so that at most one piece is too long.
            self._contended_rate = min(rate, self._contended_rate + 0.5 * (rate - self._contended_rate))
        elif tokens >= _WORTH_TIMING:
            self._quiet_rate += 0.3 * (rate - self._quiet_rate)
