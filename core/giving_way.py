"""Which of several values are given up, so that those which stay do not contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeVar

__all__ = ("fewest_given_up",)

T = TypeVar("T")
F = TypeVar("F")


def fewest_given_up(yielding: Sequence[T], fault_without: Callable[[frozenset[T]], F | None]) -> dict[T, F]:
    """The fewest values without which there is no fault, each with the fault that it would cause; of as many, the later
    ones. Empty if nothing helps.

    `yielding` must be short: its combinations are tried, the smallest first.
    """
    faults: dict[frozenset[T], F] = {}
    for count in range(len(yielding) + 1):
        for some in combinations(reversed(yielding), count):
            without = frozenset(some)
            fault = fault_without(without)
            if fault is None:
                return {one: faults[without - {one}] for one in some}
            faults[without] = fault
    return {}
