"""Vectors: length, dimensions, values that JSON cannot represent."""

from __future__ import annotations

import math
from array import array

import pytest

from corral.core.errors import InvalidEmbedding
from corral.core.requests.outputs import Vectors
from corral.core.requests.vectors import check_finite, normalise, rows


def _vectors(*values: list[float]) -> Vectors:
    return Vectors(dimensions=len(values[0]), float32=b"".join(array("f", row).tobytes() for row in values))


def test_vectors_are_scaled_to_length_one() -> None:
    """Each row has length 1 and keeps its direction; a row of zeros stays as it is."""
    scaled = [list(row) for row in rows(normalise(_vectors([3, 4], [0, 0])))]
    assert scaled == [pytest.approx([0.6, 0.8]), [0, 0]]


def test_dimensions_are_cut_before_scaling() -> None:
    """The first dimensions are kept and scaled again; asking for more than the vector has changes nothing."""
    cut = normalise(_vectors([3, 4, 12]), 2)
    assert cut.dimensions == 2
    assert list(next(rows(cut))) == pytest.approx([0.6, 0.8])
    assert normalise(_vectors([3, 4]), 5).dimensions == 2
    assert normalise(_vectors([3, 4]), 0).dimensions == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_errors(bad: float) -> None:
    """A broken vector is an error with Ollama's text, even if the bad value would be cut off."""
    with pytest.raises(InvalidEmbedding, match="embedding contains NaN or Inf values"):
        normalise(_vectors([1, bad]), 1)
    with pytest.raises(InvalidEmbedding, match="embedding contains NaN or Inf values"):
        check_finite(_vectors([1, bad]))


def test_no_vectors_are_no_rows() -> None:
    """No vectors give an empty result."""
    empty = Vectors(dimensions=0, float32=b"")
    assert list(rows(empty)) == []
    assert normalise(empty) == empty
