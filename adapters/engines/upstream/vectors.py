"""Packs vectors that a server sent as lists of numbers."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from corral.core.errors import UpstreamError
from corral.core.requests.outputs import Vectors

__all__ = ("check_size", "packed")

_MOST_DIMENSIONS = 16_384


def check_size(data: bytes, count: int, address: str) -> None:
    """Raises `UpstreamError` for JSON with more values than `count` vectors can have, before it is decoded."""
    if data.count(b",") > count * _MOST_DIMENSIONS + 1024 or data.count(b"[") + data.count(b"{") > 4 * count + 1024:
        raise UpstreamError(f"{address}: the answer is too long for the {count} vectors requested")


def packed(rows: Sequence[Sequence[float]], count: int, address: str) -> Vectors:
    """Raises `UpstreamError` unless there are `count` vectors of equal length."""
    dimensions = len(rows[0]) if rows else 0
    if len(rows) != count or not dimensions or any(len(row) != dimensions for row in rows):
        raise UpstreamError(f"{address}: expected {count} vectors of equal length, got {len(rows)}")
    try:
        flat = array("f", [number for row in rows for number in row])
    except OverflowError as error:
        raise UpstreamError(f"{address}: a vector has a number that does not fit into a float32") from error
    if sys.byteorder == "big":
        flat.byteswap()
    return Vectors(dimensions=dimensions, float32=flat.tobytes())
