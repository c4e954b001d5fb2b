"""Which idle streams are computed along with the busy ones, and thrown away.

llama.cpp computes only streams of consecutive numbers together, so a gap of one is worth filling: one row more costs
less than a second pass over the weights. And where one row takes another kernel than several do, no row may go alone.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ("filler_rows",)


def filler_rows(busy: Collection[int], count: int, *, pair_rows: bool) -> list[int]:
    """The idle streams, of `count` in all, to compute beside the `busy` ones. With `pair_rows` none is left alone."""
    taken = set(busy)
    fillers = {index + 1 for index in taken if index + 1 not in taken and index + 2 in taken}
    if pair_rows and count > 1:
        for index in sorted(taken):
            filled = taken | fillers
            if index + 1 not in filled and index - 1 not in filled:
                fillers.add(index + 1 if index + 1 < count else index - 1)
    return sorted(fillers)
