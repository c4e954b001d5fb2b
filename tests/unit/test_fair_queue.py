"""The queue in which owners take turns."""

from __future__ import annotations

import random
from collections import deque

import pytest

from corral.core.stepping.fair_queue import FairQueue

Item = tuple[str, int]


def queue(*items: Item) -> FairQueue[Item]:
    made: FairQueue[Item] = FairQueue(lambda item: item[0])
    for item in items:
        made.append(item)
    return made


def test_one_owner_has_an_ordinary_queue() -> None:
    """First in, first out, whatever is removed between."""
    chance = random.Random(1)
    fair, plain = queue(), deque[Item]()
    for number in range(500):
        if chance.random() < 0.6:
            item = ("ann", number)
            fair.append(item)
            plain.append(item)
        elif plain and chance.random() < 0.3:
            gone = chance.choice(plain)
            fair.remove(gone)
            plain.remove(gone)
        elif plain:
            assert fair.first() == plain[0]
            assert fair.popleft() == plain.popleft()
        assert (list(fair), len(fair), bool(fair)) == (list(plain), len(plain), bool(plain))


def test_whoever_waits_longest_is_next() -> None:
    """A thousand items of one owner delay the others by one at most, also those who come back."""
    fair = queue(*(("greedy", number) for number in range(1000)))
    assert fair.popleft() == ("greedy", 0)
    fair.append(("ann", 1))
    assert fair.popleft() == ("ann", 1)
    fair.append(("ann", 2))
    assert list(fair)[:3] == [("greedy", 1), ("ann", 2), ("greedy", 2)]
    assert [fair.popleft() for _ in range(3)] == [("greedy", 1), ("ann", 2), ("greedy", 2)]


@pytest.mark.parametrize("seed", range(20))
def test_one_item_of_a_greedy_owner_is_all_that_comes_before(seed: int) -> None:
    """Whenever another owner asks, it waits for one item of the greedy one at most: the running one, or the next."""
    chance = random.Random(seed)
    fair = queue(*(("greedy", number) for number in range(1000)))
    running, waited = fair.popleft(), list[int]()
    for number in range(100):
        if chance.random() < 0.5:  # time goes by between the other's requests
            running = fair.popleft()
        fair.append(("other", number))
        before = 0
        while running != ("other", number):
            before += running[0] == "greedy"
            running = fair.popleft()
        waited.append(before)
        if chance.random() < 0.5:
            running = fair.popleft()
    assert set(waited) == {1}


def test_nobody_starves() -> None:
    """Owners who ask one thing at a time, over and over, do not keep another from its turn."""
    fair = queue(("patient", 0), *((f"eager{number}", 0) for number in range(20)))
    served: list[str] = []
    while "patient" not in served[1:]:
        owner, number = fair.popleft()
        served.append(owner)
        fair.append((owner, number + 1))
        assert len(served) <= 22
    assert served.count("patient") == 2


def test_there_is_nothing_in_an_empty_queue() -> None:
    """Asking for it is an error, as with a deque."""
    fair = queue(("ann", 1))
    with pytest.raises(ValueError, match="does not wait"):
        fair.remove(("ann", 2))
    fair.clear()
    with pytest.raises(IndexError):
        fair.first()
    with pytest.raises(IndexError):
        fair.popleft()
