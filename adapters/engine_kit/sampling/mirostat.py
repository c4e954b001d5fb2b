"""Mirostat 1 and 2: samplers that control how surprising the text is. The paper is arXiv 2007.14966."""

from __future__ import annotations

import math

import numpy as np

from corral.adapters.engine_kit.sampling.candidates import Candidates

__all__ = ("Mirostat",)

_LIKELIEST = 100
"""The number of tokens from which the first version estimates the shape of the distribution (``m`` in the paper)."""


class Mirostat:
    """One request's sampler, of `version` 1 or 2.

    Source: ``llama_sampler_mirostat_apply`` and ``llama_sampler_mirostat_v2_apply``.
    """

    def __init__(self, version: int, *, tau: float, eta: float, vocabulary_size: int) -> None:
        self._version = version
        self._tau = tau
        self._eta = eta
        self._vocabulary_size = vocabulary_size
        self._mu = 2 * tau

    def choose(self, candidates: Candidates, random: float) -> int:
        """The token that `random` selects among those that are not too surprising after the recent text."""
        if self._version == 1:
            candidates.keep_likeliest(self._count(candidates))
        else:
            candidates.keep_above(2.0 ** min(0.0, -self._mu))
        place = candidates.draw(random)
        surprise = -math.log2(max(float(candidates.probabilities()[place]), 1e-300))
        self._mu -= self._eta * (surprise - self._tau)
        return int(candidates.ids[place])

    def _count(self, candidates: Candidates) -> int:
        """How many candidates to keep: from Zipf's law with an exponent fitted to the likeliest."""
        if len(candidates) < 2:
            return 1
        logits = candidates.logits
        if len(logits) > _LIKELIEST:
            logits = np.partition(logits, -_LIKELIEST)[-_LIKELIEST:]
        falls = -np.diff(-np.sort(-logits))  # ln(p_i / p_i+1)
        ranks = np.arange(1, len(logits), dtype=np.float64)
        steps = np.log((ranks + 1) / ranks)
        exponent = max(float((steps * falls).sum() / (steps * steps).sum()), 1e-6)
        excess = exponent - 1 if abs(exponent - 1) > 1e-6 else 1e-6
        share = excess / (1 - self._vocabulary_size**-excess)
        log_count = (math.log(share) + self._mu * math.log(2)) / exponent
        return len(candidates) if log_count >= math.log(len(candidates)) else max(int(math.exp(log_count)), 1)
