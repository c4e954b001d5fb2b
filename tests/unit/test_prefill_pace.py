"""How many prompt tokens a step computes, on a quiet and on a busy machine."""

from __future__ import annotations

from corral.adapters.engine_kit.step_timing import StepTime
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.prefill_pace import PrefillPace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pace(clock: Clock) -> tuple[PrefillPace, ThreadTuner]:
    tuner = ThreadTuner(2, clock, idle=lambda: 0.0, runnable=lambda: 1)
    return PrefillPace(tuner, fewest=2, beside_answers=64, largest=512, clock=clock), tuner


def prefill(one: PrefillPace, clock: Clock, tokens: int, rate: float, processors: float) -> None:
    clock.now += tokens / rate
    one.record(tokens, StepTime(tokens / rate, tokens / rate * processors))


def test_a_quiet_machine_computes_half_a_second() -> None:
    """Alone, a piece takes half a second by the measured rate; beside answers there are 64 tokens."""
    clock = Clock()
    one, _ = pace(clock)
    for _ in range(30):
        prefill(one, clock, 64, 400.0, 2.0)
    assert 195 <= one.budget(answering=False) <= 205
    assert one.budget(answering=True) == 64


def test_beside_answers_a_piece_takes_a_quarter_of_a_second() -> None:
    """What was measured of prompts bounds how long an answer waits for those of others."""
    clock = Clock()
    one, _ = pace(clock)
    for _ in range(30):
        prefill(one, clock, 64, 220.0, 2.0)
    assert 54 <= one.budget(answering=True) <= 56


def test_a_slow_model_keeps_its_least_piece_on_a_quiet_machine() -> None:
    """Rates that are low because the model is large shrink the pieces beside answers to half, and no others."""
    clock = Clock()
    one, _ = pace(clock)
    for _ in range(30):
        prefill(one, clock, 64, 10.0, 2.0)
    assert one.budget(answering=False) == 64
    assert one.budget(answering=True) == 32


def test_a_busy_machine_computes_short_pieces() -> None:
    """While processors are missing, a piece beside an answer takes 0.2 s, and half a second alone; at least two."""
    clock = Clock()
    one, tuner = pace(clock)
    prefill(one, clock, 64, 50.0, 1.0)
    assert tuner.contended
    for _ in range(30):
        prefill(one, clock, 16, 100.0, 0.6)
    assert one.budget(answering=True) in (19, 20)
    assert 48 <= one.budget(answering=False) <= 50
    prefill(one, clock, 16, 2.0, 0.1)
    assert one.budget(answering=True) == one.budget(answering=False) == 2


def test_the_first_piece_after_a_pause_is_short() -> None:
    """It shows whether the machine has become busy meanwhile."""
    clock = Clock()
    one, _ = pace(clock)
    assert one.budget(answering=False) == 64
    prefill(one, clock, 64, 1000.0, 2.0)
    assert one.budget(answering=False) > 64
    clock.now += 5.0
    assert one.budget(answering=False) == 64
