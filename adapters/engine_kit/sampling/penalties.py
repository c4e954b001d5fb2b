"""Repeat, presence and frequency penalties: recent tokens become less likely."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from corral.adapters.engine_kit.sampling.candidates import Logits
from corral.core.requests.requests import SamplingParams

__all__ = ("Penalties",)

_HUGE = 1e30


class Penalties:
    """Looks at the last `last_n` tokens. Source: ``llama_sampler_penalties_apply``."""

    def __init__(self, params: SamplingParams, *, last_n: int, vocabulary_size: int) -> None:
        self._repeat = params.repeat_penalty
        self._presence = params.presence_penalty
        self._frequency = params.frequency_penalty
        self._window: deque[int] = deque(maxlen=last_n)
        self._counts = np.zeros(vocabulary_size, np.int32)

    def remember(self, ids: Sequence[int]) -> None:
        window, counts = self._window, self._counts
        for token_id in ids[-(window.maxlen or 0) :]:
            if len(window) == window.maxlen:
                counts[window[0]] -= 1
            window.append(token_id)
            counts[token_id] += 1

    def apply(self, logits: Logits) -> None:
        """Change `logits` in place. Forbidden tokens stay forbidden, and no logit becomes infinite."""
        said = np.flatnonzero(self._counts)
        said = said[np.isfinite(logits[said])]
        values = logits[said].astype(np.float64)
        if self._repeat != 1.0:
            likely = values > 0
            values[~likely] *= self._repeat
            values[likely] = values[likely] / self._repeat if self._repeat else _HUGE
        values -= self._counts[said] * self._frequency + self._presence
        logits[said] = np.clip(values, -_HUGE, _HUGE)
