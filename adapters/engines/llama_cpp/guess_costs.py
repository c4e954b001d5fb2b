"""What steps cost with guesses and without, as measured while they run."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ("StepCosts", "StepKind")

_SAMPLES = 5
_ASSUMED_ROW = 0.3
_ASSUMED_SPLIT = 0.5
"""Until a kind has been measured, a further row costs this much of a step without guesses, and rows of which not all
sequences have as many cost another pass over the weights, which is put at half a step."""
_REMEMBERED_STEPS = 1_000


class StepKind(NamedTuple):
    """`guessing` of the `sequences` have `length` guesses each, some of a draft model if `drafted`; the others none."""

    sequences: int
    guessing: int = 0
    length: int = 0
    drafted: bool = False


class StepCosts:
    """Seconds of the latest steps of each kind. What has not been measured for long is forgotten, since the machine may
    have become another."""

    def __init__(self) -> None:
        self._samples: dict[StepKind, deque[float]] = {}
        self._measured_at: dict[StepKind, int] = {}
        self._steps = 0

    def record(self, kind: StepKind, took_s: float) -> None:
        self._steps += 1
        self._samples.setdefault(kind, deque(maxlen=_SAMPLES)).append(took_s)
        self._measured_at[kind] = self._steps

    def plain_s(self, sequences: int) -> float | None:
        """What a step without guesses takes; None if none has been measured."""
        samples = self._recent(StepKind(sequences))
        return _middle(samples) if samples else None

    def steps_since(self, kind: StepKind) -> int:
        """How many steps ago the kind was measured."""
        return self._steps - self._measured_at.get(kind, -_REMEMBERED_STEPS)

    def ratio(self, kind: StepKind) -> float:
        """What a step of this kind takes, as a multiple of one without guesses.

        The first measurement alone does not say that a kind is expensive: it may have been chance.
        """
        plain_s = self.plain_s(kind.sequences)
        assumed = 1.0 + _ASSUMED_ROW * kind.length * kind.guessing / kind.sequences
        if kind.guessing < kind.sequences:
            assumed += _ASSUMED_SPLIT
        if not plain_s:
            return assumed
        ratios = [took_s / plain_s for took_s in self._recent(kind)]
        return _middle(ratios if len(ratios) >= 3 else [*ratios, assumed])

    def _recent(self, kind: StepKind) -> list[float]:
        if self.steps_since(kind) >= _REMEMBERED_STEPS:
            self._samples.pop(kind, None)
        return list(self._samples.get(kind, ()))


def _middle(values: list[float]) -> float:
    """The median; of an even number, the lower of the two in the middle."""
    return sorted(values)[(len(values) - 1) // 2]
