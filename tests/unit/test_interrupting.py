"""When a piece of a prompt is interrupted: while other processes have the processors of its threads."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("llama_cpp")

import llama_cpp as C

from corral.adapters.engine_kit.step_timing import StepTime
from corral.adapters.engines.llama_cpp import interrupting
from corral.adapters.engines.llama_cpp.interrupting import Interrupter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is interrupted there")

_LONG_S = 5.0


class Processors:
    """A computation has had the next of `had` between two looks, the last again and again. `faults`: how often it
    waited for the disk.
    """

    def __init__(self) -> None:
        self.had = [2.0]
        self.faults = 0

    def read(self) -> StepTime:
        return StepTime(0.05, 0.05 * (self.had.pop(0) if len(self.had) > 1 else self.had[0]))


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> Processors:
    machine = Processors()
    monkeypatch.setattr(interrupting, "Stopwatch", lambda: machine)
    monkeypatch.setattr(interrupting, "_faults", lambda: machine.faults)
    monkeypatch.setattr(interrupting, "_LOOK_S", 0.001)
    return machine


@pytest.fixture
def interrupter() -> Iterator[Interrupter]:
    one = Interrupter()
    yield one
    one.close()


@pytest.fixture
def stops(interrupter: Interrupter, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """What llama.cpp asks after each operation."""
    installed: list[Any] = []
    monkeypatch.setattr(C, "llama_set_abort_callback", lambda context, ask, data: installed.append((ask, data)))
    interrupter.install(None)
    [(ask, data)] = installed
    return lambda: ask(data)


def becomes_true(stops: Callable[[], bool], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if stops():
            return True
        time.sleep(0.001)
    return False


def test_a_step_without_processors_is_interrupted(
    interrupter: Interrupter, processors: Processors, stops: Callable[[], bool]
) -> None:
    """It stops once others have had a processor for a while; what is computed after it is not interrupted by that."""
    with interrupter.watch(2, 0.6):
        processors.had = [2.0] * 10 + [1.0]
        assert becomes_true(stops, _LONG_S)
        assert processors.had == [1.0]
    assert not stops()
    processors.had = [1.5]
    with interrupter.watch(2, 0.6):
        assert not becomes_true(stops, 0.05)


def test_a_moment_without_processors_is_no_reason(
    interrupter: Interrupter, processors: Processors, stops: Callable[[], bool]
) -> None:
    """A machine that stood still, or other work now and then: when it is over, the step goes on."""
    processors.had = [0.0, 2.0, 2.0] * 300
    with interrupter.watch(2, 0.6):
        assert not becomes_true(stops, 0.1)


def test_waiting_for_the_disk_is_no_reason(
    interrupter: Interrupter, processors: Processors, stops: Callable[[], bool]
) -> None:
    """A step that reads weights from the disk lacks processor time as well, and goes on."""
    processors.had = [2.0] * 20 + [0.1]
    with interrupter.watch(2, 0.6):
        processors.faults = 1
        assert not becomes_true(stops, 0.1)


def test_the_thread_ends_with_it(interrupter: Interrupter, processors: Processors, stops: Callable[[], bool]) -> None:
    """Closing waits for the thread, and a second time does nothing."""
    with interrupter.watch(2, 0.6):
        processors.had = [0.1]
        assert becomes_true(stops, _LONG_S)
    thread = interrupter._thread
    assert thread is not None
    interrupter.close()
    assert not thread.is_alive()
    interrupter.close()
