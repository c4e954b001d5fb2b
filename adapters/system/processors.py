"""Counts the processors that this process may use, and tells how many of them are idle or wanted by others now."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ("IdleProcessors", "available_cpus", "quota_cpus", "runnable_threads")

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_SHORTEST_S = 0.1
"""The system counts in hundredths of a second."""


def available_cpus(*, rounded_up: bool = False) -> int:
    """The processors that this process may use: its affinity, or the quota of its control group if that is less.

    A quota of 1.5 processors counts as one: more threads would only be halted in turn. `rounded_up`, it counts as two.
    """
    quota = quota_cpus(_PROC / "self/cgroup", _CGROUPS)
    allowed = len(_allowed())
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota) if rounded_up else int(quota)))


def quota_cpus(membership: Path, root: Path) -> float | None:
    """The smallest quota of this process's control group and those above it, in processors. Version 1 and 2."""
    return min(_quotas(membership, root), default=None)


def runnable_threads(loadavg: Path = _PROC / "loadavg") -> int | None:
    """How many threads of the whole system run or wait for a processor in this moment; None if it does not say."""
    try:
        return int(loadavg.read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None


class IdleProcessors:
    """Called again and again, it returns how many of the available processors were idle since the last call.

    Processors that only work at low priority count as idle. None in the first call, and where the system does not say.
    """

    def __init__(self, clock: Callable[[], float], stat: Path = _PROC / "stat") -> None:
        self._clock = clock
        self._stat = stat
        self._allowed = {f"cpu{number}" for number in _allowed()}
        self._hertz = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self._before: tuple[float, int] | None = None
        self._last: float | None = None

    def __call__(self) -> float | None:
        """Calls within a tenth of a second return the same."""
        now = self._clock()
        if self._before is not None and now - self._before[0] < _SHORTEST_S:
            return self._last
        ticks = self._idle_ticks()
        before, self._before = self._before, None if ticks is None else (now, ticks)
        self._last = None
        if ticks is not None and before is not None:
            self._last = (ticks - before[1]) / self._hertz / (now - before[0])
        return self._last

    def _idle_ticks(self) -> int | None:
        try:
            lines = self._stat.read_text().splitlines()
            rows = [row for line in lines if line.startswith("cpu") and (row := line.split())[0] in self._allowed]
            return sum(int(row[2]) + int(row[4]) + int(row[5]) for row in rows) if rows else None
        except (OSError, ValueError, IndexError):
            return None


def _allowed() -> set[int]:
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not on macOS or Windows
        return set(range(os.cpu_count() or 1))


def _quotas(membership: Path, root: Path) -> Iterator[float]:
    for line in filter(None, _read(membership).splitlines()):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, files = root, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mount, files = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # In a container the path may be the host's: then only the mount's own files are there.
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            words = " ".join(_read(folder / name) for name in files).split()
            if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
                yield int(words[0]) / int(words[1])
            if folder == mount:
                break


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
