"""How many threads an engine has for the option `num_thread`."""

from __future__ import annotations

import pytest

from corral.adapters.engine_kit.thread_counts import most_threads, threads_for
from corral.adapters.system import processors
from corral.adapters.system.processors import available_cpus


def test_threads_that_an_option_may_have() -> None:
    """0 or less means one per processor; the number is limited to a few per processor, because more would only wait
    for each other."""
    assert threads_for(0) == threads_for(-5) == available_cpus()
    assert (threads_for(1), threads_for(3)) == (1, 3)
    assert threads_for(512) == max(16, 4 * available_cpus())


def test_the_most_threads_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 or less is one per processor, a number is itself, but no more than the processors; what is left of a quota
    counts as one for a number.
    """
    quota: float | None = None
    monkeypatch.setattr(processors, "_allowed", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(processors, "quota_cpus", lambda membership, root: quota)
    assert [most_threads(number) for number in (-1, 0, 1, 3, 4, 5, 512)] == [4, 4, 1, 3, 4, 4, 4]
    quota = 1.5
    assert [most_threads(number) for number in (-1, 0, 1, 2, 3, 512)] == [1, 1, 1, 2, 2, 2]
    quota = 0.5
    assert [most_threads(number) for number in (0, 2)] == [1, 1]
