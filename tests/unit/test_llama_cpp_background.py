"""What the llama.cpp engine does while it is idle: the order of works, and when the next piece is due."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from corral.adapters.engines.llama_cpp.background import idle_pieces


class Works:
    """Works that take a time and return when they are due; `called` names those that were called."""

    def __init__(self, *answers: float | None, took_s: float = 0.0) -> None:
        self.now = 0.0
        self.called: list[int] = []
        self.all = [self._work(index, answer, took_s) for index, answer in enumerate(answers)]

    def _work(self, index: int, answer: float | None, took_s: float) -> Callable[[], float | None]:
        def work() -> float | None:
            self.called.append(index)
            self.now += took_s
            return answer

        return work

    def idle(self) -> float | None:
        return idle_pieces(self.all, lambda: self.now)


@pytest.mark.parametrize(
    ("answers", "due", "called"),
    [
        ((), None, []),
        ((None, None), None, [0, 1]),
        ((3.0, None, 2.0), 2.0, [0, 1, 2]),
        ((0.0, 2.0), 0.0, [0]),
        ((5.0, 0.0, None), 0.0, [0, 1]),
    ],
)
def test_the_order_of_works(answers: tuple[float | None, ...], due: float | None, called: list[int]) -> None:
    """A work that has more to do holds up those behind it; otherwise the soonest time counts."""
    works = Works(*answers)
    assert works.idle() == due
    assert works.called == called


def test_two_long_pieces_are_never_done_in_one() -> None:
    """After a work that took long, the runner looks for requests before the next work begins."""
    works = Works(None, None, took_s=0.04)
    assert works.idle() == 0.0
    assert works.called == [0]
    assert Works(None, took_s=0.04).idle() is None
