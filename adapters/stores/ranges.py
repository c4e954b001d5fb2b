"""Arithmetic on the byte ranges of a partial blob."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ("Range", "covers", "frontier", "merged")

Range = tuple[int, int]
"""(start, end) in bytes, end excluded."""


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The ranges sorted, without overlaps and without empty ones."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif end > start:
            result.append((start, end))
    return result


def covers(ranges: list[Range], size_bytes: int | None) -> bool:
    """Whether merged ranges are complete: one range from 0 to the size. Without a size, one range from 0, or none."""
    if size_bytes is None:
        return not ranges or (len(ranges) == 1 and ranges[0][0] == 0)
    return ranges == ([(0, size_bytes)] if size_bytes else [])


def frontier(ranges: list[Range]) -> int:
    """How many bytes from the beginning are there, of merged ranges."""
    return ranges[0][1] if ranges and ranges[0][0] == 0 else 0
