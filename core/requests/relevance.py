"""From a reranker's log-odds to a probability."""

from __future__ import annotations

import math

__all__ = ("relevance",)


def relevance(score: float) -> float:
    """How likely a document with this score answers its query, between 0 and 1: the logistic function."""
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    power = math.exp(score)  # of a negative number, so that it cannot overflow
    return power / (1.0 + power)
