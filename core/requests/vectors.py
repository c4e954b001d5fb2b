"""Arithmetic on `Vectors`: reads them, cuts dimensions, scales to length 1."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator

from corral.core.errors import InvalidEmbedding
from corral.core.requests.outputs import Vectors

__all__ = ("check_finite", "normalise", "rows")


def rows(vectors: Vectors) -> Iterator[array[float]]:
    """Each vector as an array of floats, in order."""
    width = 4 * vectors.dimensions
    for number in range(vectors.count):
        row = array("f", vectors.float32[number * width : (number + 1) * width])
        if sys.byteorder == "big":
            row.byteswap()
        yield row


def normalise(vectors: Vectors, dimensions: int | None = None) -> Vectors:
    """Scale each vector to length 1, after cutting it to its first `dimensions` if it has more (Matryoshka).

    A zero vector is left as it is. Raises `InvalidEmbedding` with Ollama's text for NaN and infinity.
    """
    width = dimensions if dimensions is not None and 0 < dimensions < vectors.dimensions else vectors.dimensions
    scaled = bytearray()
    for row in rows(vectors):
        _require_finite(row)
        kept = row[:width]
        length = math.hypot(*kept)
        if length > 0:
            kept = array("f", [value / length for value in kept])
        if sys.byteorder == "big":
            kept.byteswap()
        scaled += kept.tobytes()
    return Vectors(dimensions=width, float32=bytes(scaled))


def check_finite(vectors: Vectors) -> None:
    """Raises `InvalidEmbedding` with Ollama's text for NaN and infinity, which JSON cannot represent."""
    for row in rows(vectors):
        _require_finite(row)


def _require_finite(row: array[float]) -> None:
    # The hypotenuse of all components is finite only if each of them is: one call in C for the whole row.
    if not math.isfinite(math.hypot(*row)):
        raise InvalidEmbedding("embedding contains NaN or Inf values")
