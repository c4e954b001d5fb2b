"""Runs the cases against one server, or against two alternately."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from benchmarks.cases import CASES
from benchmarks.figures import Figures
from benchmarks.load import Load
from benchmarks.servers import Target, forget_peaks, memory_peaks, running

__all__ = ("Measured", "measure")

Measured = dict[str, dict[str, list[Figures]]]
"""Figures by case, then by the server's label, one for each round."""


async def measure(
    targets: Sequence[Target],
    cases: Sequence[str],
    *,
    streams: int,
    tokens: int,
    rounds: int,
    run: int = 0,
    pause_s: float = 1.0,
    on_step: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Each round runs all cases on each server, with the same prompts; the server that goes first alternates.

    A server with a start command runs only during its turn. `run` and `pause_s` as in `Load`. Raises `RuntimeError`.
    """
    measured: Measured = {case: {target.label: [] for target in targets} for case in cases}
    running_cases = [case for case in cases if CASES[case].run is not None]
    for number in range(rounds):
        load = Load(streams=streams, tokens=tokens, round=number, run=run, pause_s=pause_s)
        for target in targets if number % 2 == 0 else tuple(reversed(targets)):

            def step(case: str, target: Target = target, number: int = number) -> None:
                on_step(f"round {number + 1} of {rounds}: {target.label}, {CASES[case].title}")

            if running_cases:
                for case, found in (await _on_running(target, running_cases, load, step)).items():
                    measured[case][target.label].append(found)
            for case in cases:
                again = CASES[case].again
                if again is not None:
                    step(case)
                    measured[case][target.label].append(await again(target, load))
    return measured


async def _on_running(
    target: Target, cases: Sequence[str], load: Load, step: Callable[[str], None]
) -> dict[str, Figures]:
    found = {}
    async with running(target) as server:
        for case in cases:
            step(case)
            run = CASES[case].run
            assert run is not None
            forget_peaks(server.process_id)
            figures = await run(server.dialect, load)
            peaks = memory_peaks(server.process_id)
            if peaks:
                figures = msgspec.structs.replace(figures, memory_bytes=sum(peaks), largest_bytes=max(peaks))
            found[case] = figures
    return found
