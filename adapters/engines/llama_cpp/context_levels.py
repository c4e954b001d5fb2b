"""The numbers of streams and cells that a context may have: each about twice the one before."""

from __future__ import annotations

__all__ = ("FIRST_CELLS", "cell_levels", "stream_levels")

FIRST_CELLS = 512


def stream_levels(fewest: int, most: int) -> list[int]:
    """`fewest`, and every power of two above it, up to `most`."""
    powers = (1 << exponent for exponent in range(most.bit_length()))
    return sorted({fewest, most} | {power for power in powers if fewest < power < most})


def cell_levels(first: int, most: int) -> list[int]:
    """`first`, doubled again and again, up to `most`."""
    levels = []
    while first < most:
        levels.append(first)
        first *= 2
    return [*levels, most]
