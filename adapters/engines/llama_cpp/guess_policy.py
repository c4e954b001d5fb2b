"""Decides how many guesses each sequence has in a step: as many as win, by what was accepted and what steps took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from corral.adapters.engines.llama_cpp.guess_costs import StepCosts, StepKind

__all__ = ("LENGTHS", "Acceptance", "Evidence", "GuessCandidate", "GuessPolicy")

Evidence = Literal["short", "medium", "long", "very long", "draft"]
"""What a guess rests on: a match of a few tokens, or of many, or a draft model."""

LENGTHS = (1, 3, 7)
"""Rows come in powers of two, so that few kinds of steps must be measured."""
_MOST_SEQUENCES = 8
"""With more, a row costs about what a token costs."""
_WORTH = 0.05
"""Guesses must be expected to win at least this share of a step's speed."""
_ASSUMED: Mapping[Evidence, float] = {"short": 0.35, "medium": 0.55, "long": 0.75, "very long": 0.9, "draft": 0.6}
"""The share of guesses that are accepted, until a model has shown another."""
_MODEL_MEMORY, _REQUEST_MEMORY = 0.99, 0.9
_ASSUMED_GUESSES, _MODEL_WEIGHT = 8.0, 2.0
_SHARE = 0.005
"""Of the time of steps without guesses, this share may be lost by trying."""
_AT_FIRST, _MOST_SAVED, _MOST_OWED = 1.0, 2.0, 1.0
"""So many steps may be lost before any time has passed; so many are saved up; and so many may be owed by guesses that
were expected to win."""
_FRESH_STEPS = 64
"""A step without guesses is measured at least this often."""


class Acceptance:
    """The share of guesses that were accepted, by what they rested on: of one request or, with no `model`, of all."""

    def __init__(self, model: Acceptance | None = None) -> None:
        self._model = model
        self._accepted = dict.fromkeys(_ASSUMED, 0.0)
        self._tried = dict.fromkeys(_ASSUMED, 0.0)

    def share(self, evidence: Evidence) -> float:
        if self._model is None:
            assumed, weight = _ASSUMED[evidence], _ASSUMED_GUESSES
        else:
            assumed, weight = self._model.share(evidence), _MODEL_WEIGHT
        return (self._accepted[evidence] + weight * assumed) / (self._tried[evidence] + weight)

    def record(self, evidence: Evidence, accepted: int, *, rejected: bool) -> None:
        """So many guesses were accepted, and the one after them was rejected or was not needed."""
        tried = accepted + rejected
        memory = (_MODEL_MEMORY if self._model is None else _REQUEST_MEMORY) ** tried
        self._accepted[evidence] = self._accepted[evidence] * memory + accepted
        self._tried[evidence] = self._tried[evidence] * memory + tried
        if self._model is not None:
            self._model.record(evidence, accepted, rejected=rejected)


class GuessCandidate(NamedTuple):
    """The guesses that a sequence could have: how many there are, and how likely each is if those before it are.
    `drafted`: a draft model would have to compute them.
    """

    available: int
    share: float
    drafted: bool = False

    def expected(self, length: int) -> float:
        """How many tokens a step yields with so many guesses."""
        return float(sum(self.share**count for count in range(length + 1)))


class _Choice(NamedTuple):
    """`chosen` sequences have guesses. `gain` is the logarithm of how much faster the sequences become on average."""

    gain: float
    loss: float
    kind: StepKind
    chosen: tuple[int, ...]


class GuessPolicy:
    """The decisions for one model.

    The choice is for the largest product of all sequences' speeds: what gains much may slow others down a little. What
    guesses cost in vain is bounded: it is paid from a balance, in steps without guesses.
    """

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs
        self._balance = _AT_FIRST

    def lengths(self, candidates: Sequence[GuessCandidate], most_rows: int) -> list[int]:
        """How many guesses each sequence has in the next step, which has room for `most_rows` rows."""
        lengths = [0] * len(candidates)
        count = len(candidates)
        if count > _MOST_SEQUENCES or not any(candidate.available for candidate in candidates):
            return lengths
        if self._costs.plain_s(count) is None or self._costs.steps_since(StepKind(count)) >= _FRESH_STEPS:
            return lengths
        choices = self._choices(candidates, most_rows)
        if not choices:
            return lengths
        choice = max(choices)
        if choice.gain <= _WORTH or self._balance < -_MOST_OWED:
            choice = min(choices, key=lambda one: one.loss)
            if choice.loss > self._balance:
                return lengths
        for at in choice.chosen:
            lengths[at] = choice.kind.length
        return lengths

    def _choices(self, candidates: Sequence[GuessCandidate], most_rows: int) -> list[_Choice]:
        choices = []
        for length in LENGTHS:
            having = [at for at, candidate in enumerate(candidates) if candidate.available >= length]
            expected = {at: math.log(candidates[at].expected(length)) for at in having}
            having.sort(key=lambda at: -expected[at])
            gain = 0.0
            for guessing, at in enumerate(having, 1):
                if len(candidates) + guessing * length > most_rows:
                    break
                drafted = any(candidates[one].drafted for one in having[:guessing])
                kind = StepKind(len(candidates), guessing, length, drafted)
                ratio = self._costs.ratio(kind)
                gain += expected[at] / len(candidates)
                choices.append(_Choice(gain - math.log(ratio), ratio - 1.0, kind, tuple(having[:guessing])))
        return choices

    def record(self, kind: StepKind, took_s: float, tokens: int) -> None:
        """Report a step: what it took, with guessing, and how many tokens all sequences got."""
        plain_s = self._costs.plain_s(kind.sequences)
        self._costs.record(kind, took_s)
        if kind.length == 0:
            self._balance = min(_MOST_SAVED, self._balance + _SHARE)
        elif plain_s:
            won = tokens / kind.sequences - took_s / plain_s
            self._balance = min(_MOST_SAVED, self._balance + won)
