"""Chooses idle streams that are computed together with the busy ones, although their results are dropped.

llama.cpp computes only streams with consecutive numbers together, so that a gap of one is worth filling: an extra row
costs less than a second pass over the weights. And if a single row uses a different kernel, no row may be computed
alone.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ("filler_rows",)


def filler_rows(busy: Collection[int], count: int, *, pair_rows: bool) -> list[int]:
    """The idle streams, of `count` in total, to compute with the `busy` ones.

    With `pair_rows`, no row is computed alone.
    """
    taken = set(busy)
    fillers = {index + 1 for index in taken if index + 1 not in taken and index + 2 in taken}
    if pair_rows and count > 1:
        for index in sorted(taken):
            filled = taken | fillers
            if index + 1 not in filled and index - 1 not in filled:
                fillers.add(index + 1 if index + 1 < count else index - 1)
    return sorted(fillers)
