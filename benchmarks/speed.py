"""Runs the cases against one server, or against two alternately."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.cases import CASES, Load
from benchmarks.figures import Figures
from benchmarks.servers import Target, running

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
    on_step: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Each round runs all cases on each server, with the same prompts; the server that goes first alternates.

    A server with a start command runs only during its turn. Raises `RuntimeError`.
    """
    measured: Measured = {case: {target.label: [] for target in targets} for case in cases}
    for number in range(rounds):
        for target in targets if number % 2 == 0 else tuple(reversed(targets)):
            async with running(target) as server:
                for case in cases:
                    on_step(f"round {number + 1} of {rounds}: {target.label}, {CASES[case].title}")
                    load = Load(streams=streams, tokens=tokens, round=number)
                    measured[case][target.label].append(await CASES[case].run(server.dialect, load))
    return measured
