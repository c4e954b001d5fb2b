"""How long threads of OpenMP wait for each other in busy loops before they sleep.

GCC's runtime waits 300,000 rounds, which takes 15 ms and more on today's processors, hundreds of times in the
computation of one token: if another process takes a processor away, seconds pass. It reads its environment once, when
it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ("short_waits", "wait_settings")

_ROUNDS = "30000"
"""About 1.5 ms: longer than the threads of a quiet machine wait, also between two tokens."""


def wait_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add for a process that will load OpenMP; none if the user has set how its threads wait."""
    if "GOMP_SPINCOUNT" in environment or "OMP_WAIT_POLICY" in environment:
        return {}
    return {"GOMP_SPINCOUNT": _ROUNDS}


@contextmanager
def short_waits() -> Iterator[None]:
    """Libraries of this process that are loaded inside get these settings; a runtime that is already there does not."""
    added = wait_settings(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
