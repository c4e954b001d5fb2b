"""Chooses one of a few candidates according to the sampling options."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from corral.core.requests.requests import SamplingParams

__all__ = ("choose",)


def choose(logits: Mapping[int, float], sampling: SamplingParams, draw: random.Random) -> int:
    """A token of `logits`: the likeliest at temperature 0, otherwise one drawn by `top_k` and `top_p`."""
    ranked = sorted(logits.items(), key=lambda item: (-item[1], item[0]))
    if sampling.temperature <= 0:
        return ranked[0][0]
    ranked = ranked[: sampling.top_k] if sampling.top_k > 0 else ranked
    weights = [math.exp((logit - ranked[0][1]) / sampling.temperature) for _, logit in ranked]
    total, kept, mass = sum(weights), 0, 0.0
    while kept < len(weights) and (kept == 0 or mass < sampling.top_p * total):
        mass += weights[kept]
        kept += 1
    return draw.choices([id for id, _ in ranked[:kept]], weights[:kept])[0]
