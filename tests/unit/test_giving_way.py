"""Which values are given up so that the others do not contradict each other."""

from __future__ import annotations

from corral.core.giving_way import fewest_given_up


def fault(without: frozenset[int]) -> str | None:
    """A sum that is more than ten."""
    total = sum({1, 2, 5, 9} - without)
    return None if total <= 10 else f"{total} is too much"


def test_as_few_as_possible() -> None:
    """The fewest are given up, and of as many, the later ones; each with the fault that it would cause."""
    assert fewest_given_up([5, 9, 1], fault) == {9: "17 is too much"}
    assert fewest_given_up([1, 2, 5], fault) == {5: "15 is too much", 2: "12 is too much"}


def test_nothing_is_given_up_without_need() -> None:
    """Neither if there is no fault, nor if nothing helps."""
    assert fewest_given_up([1, 2], lambda without: None) == {}
    assert fewest_given_up([1, 2], lambda without: "broken") == {}
