"""Chooses streams that are computed together with the busy ones, although their results are dropped.

llama.cpp computes only streams with consecutive numbers together, so that a gap of one is worth filling: an extra row
costs less than a second pass over the weights. And if a single row uses a different kernel, no row may be computed
alone.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

__all__ = ("filler_rows", "lone_rows")


def filler_rows(busy: Collection[int], count: int, *, pair_rows: bool, full: Collection[int] = ()) -> list[int]:
    """The other streams, of `count` in total, to compute with the `busy` ones. Those that are `full` have no room for
    a row.

    With `pair_rows`, no row is computed alone, except those of `lone_rows`.
    """
    taken = set(busy)
    fillers = {index + 1 for index in taken if index + 1 not in taken and index + 2 in taken}.difference(full)
    if pair_rows and count > 1:
        for index in sorted(taken):
            filled = taken | fillers
            if index + 1 not in filled and index - 1 not in filled:
                near = (other for other in (index + 1, index - 1) if 0 <= other < count and other not in full)
                fillers.update(islice(near, 1))
    return sorted(fillers)


def lone_rows(busy: Collection[int], fillers: Collection[int]) -> list[int]:
    """The busy streams whose rows are computed alone, with these fillers."""
    filled = {*busy, *fillers}
    return [index for index in busy if index + 1 not in filled and index - 1 not in filled]
