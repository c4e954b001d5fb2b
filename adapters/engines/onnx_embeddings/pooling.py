"""Pools the vectors of tokens into one vector of a text, in the ways of sentence-transformers, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ("normalised", "pooled")

Floats = npt.NDArray[np.float32]


def pooled(tokens: Floats, ways: Sequence[str]) -> Floats:
    """One vector from rows ``(tokens, width)`` without padding; the results of several ways are concatenated.

    Source of the formulas: sentence-transformers, ``models/Pooling.py``.
    """
    return np.concatenate([_one(tokens, way) for way in ways])


def normalised(vector: Floats) -> Floats:
    """Scaled to length 1; zeros stay zeros."""
    scaled: Floats = vector / np.maximum(np.sqrt(np.square(vector).sum()), np.float32(1e-12))
    return scaled


def _one(tokens: Floats, way: str) -> Floats:
    count = np.float32(len(tokens))
    vector: Floats
    if way == "cls":
        vector = tokens[0]
    elif way == "lasttoken":
        vector = tokens[-1]
    elif way == "max":
        vector = tokens.max(axis=0)
    elif way == "weightedmean":
        weights = np.arange(1, len(tokens) + 1, dtype=np.float32)
        vector = (tokens * weights[:, None]).sum(axis=0) / weights.sum()
    else:
        vector = tokens.sum(axis=0) / (count if way == "mean" else np.sqrt(count))
    return vector
