"""The candidates for the next token, and the samplers that narrow them down.

Meaning and order follow llama.cpp's ``src/llama-sampler.cpp`` (the function each method names), with `min_keep` 1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ("Candidates", "Logits", "drop_far_below")

Logits = npt.NDArray[np.float32]

_MANY = 1024
"""From this many candidates on, the likeliest are examined first: sorting all of them is rarely needed."""


def drop_far_below(logits: Logits, sigmas: float) -> Logits:
    """top-nσ: forbid what lies more than `sigmas` standard deviations below the highest logit.

    Source: ``llama_sampler_top_n_sigma_apply``; the paper is arXiv 2411.07641.
    """
    finite = logits if logits.min() > -np.inf else logits[logits > -np.inf]
    if len(finite) < 2:
        return logits
    threshold = finite.max() - sigmas * finite.std(dtype=np.float64)
    return np.where(logits < threshold, np.float32(-np.inf), logits)


class Candidates:
    """Token ids with their logits as float64. Forbidden tokens (``-inf``) and NaN are left out from the start."""

    def __init__(self, logits: Logits, top_k: int = 0) -> None:
        """The `top_k` likeliest (``llama_sampler_top_k_impl``), or all if it is 0 or less."""
        if 0 < top_k < len(logits):
            ids = np.argpartition(logits, -top_k)[-top_k:]
            ids = ids[logits[ids] > -np.inf]
        else:
            ids = np.flatnonzero(logits > -np.inf)
        self.ids: npt.NDArray[np.intp] = ids
        self.logits: npt.NDArray[np.float64] = logits[ids].astype(np.float64)
        self._sorted = False
        if len(ids) <= _MANY:
            self._sort()

    def __len__(self) -> int:
        return len(self.ids)

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Softmax over the candidates, in their order."""
        weights: npt.NDArray[np.float64] = np.exp(self.logits - self.logits.max())
        weights /= weights.sum()
        return weights

    def keep_typical(self, mass: float) -> None:
        """Locally typical sampling: those whose surprise is nearest the entropy, until they weigh more than `mass`.

        Source: ``llama_sampler_typical_apply``; the paper is arXiv 2202.00666.
        """
        probabilities = self.probabilities()
        surprise = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
        entropy = float((probabilities * surprise).sum())
        order = np.argsort(np.abs(surprise - entropy), kind="stable")
        reached = np.cumsum(probabilities[order]) > mass
        count = int(reached.argmax()) + 1 if reached.any() else len(order)
        self._take(order[:count])
        self._sorted = False
        self._sort()

    def keep_top_p(self, mass: float) -> None:
        """Nucleus sampling: the likeliest, until they weigh at least `mass`. Source: ``llama_sampler_top_p_apply``."""
        probabilities = self.probabilities()
        if not self._sorted:
            likeliest = np.argpartition(probabilities, -_MANY)[-_MANY:]
            if float(probabilities[likeliest].sum()) < mass:
                likeliest = np.arange(len(probabilities))
            order = likeliest[np.argsort(-probabilities[likeliest], kind="stable")]
            self._take(order)
            self._sorted = True
            probabilities = probabilities[order]
        reached = np.cumsum(probabilities) >= mass
        self._take(slice(int(reached.argmax()) + 1 if reached.any() else len(probabilities)))

    def keep_min_p(self, share: float) -> None:
        """Those at least `share` times as likely as the likeliest. Source: ``llama_sampler_min_p_apply``."""
        self._take(self.logits >= self.logits.max() + math.log(min(share, 1.0)))

    def drop_top_choices(self, threshold: float) -> None:
        """XTC: of those whose probability reaches `threshold`, only the least likely stays.

        Source: ``llama_sample_xtc_apply``; a threshold above one half does nothing.
        """
        if threshold > 0.5 or len(self) < 2:
            return
        self._sort()
        above = int((self.probabilities() >= threshold).sum())
        if above > 1:
            self._take(slice(above - 1, None))

    def cool(self, temperature: float) -> None:
        """Divide the logits; 0 keeps the likeliest alone. Source: ``llama_sampler_temp_impl``."""
        if temperature <= 0:
            best = int(self.logits.argmax())
            self._take(slice(best, best + 1))
        else:
            self.logits = (self.logits - self.logits.max()) / max(temperature, 1e-9)

    def cool_by_entropy(self, temperature: float, reach: float, exponent: float) -> None:
        """Dynamic temperature: within `reach` of `temperature`, higher where the choice is open.

        Source: ``llama_sampler_temp_ext_apply``. An exponent below 0 counts as 0.
        """
        if len(self) < 2:
            return
        probabilities = self.probabilities()
        present = probabilities[probabilities > 0]
        openness = float(-(present * np.log(present)).sum()) / math.log(len(self))
        lowest, highest = max(0.0, temperature - reach), temperature + reach
        self.cool(lowest + (highest - lowest) * max(0.0, openness) ** max(0.0, exponent))

    def keep_likeliest(self, count: int) -> None:
        """The `count` likeliest, sorted."""
        if not self._sorted and count < len(self):
            self._take(np.argpartition(self.logits, -count)[-count:])
        self._sort()
        self._take(slice(count))

    def keep_above(self, probability: float) -> None:
        """Those of at least this probability, and the likeliest in any case."""
        probabilities = self.probabilities()
        self._take(probabilities >= min(probability, float(probabilities.max())))

    def draw(self, random: float) -> int:
        """The index of the candidate that `random` (0 to 1, 1 excluded) selects."""
        running = np.cumsum(np.exp(self.logits - self.logits.max()))
        return min(int(np.searchsorted(running, random * running[-1], side="right")), len(self) - 1)

    def _sort(self) -> None:
        if not self._sorted:
            self._take(np.argsort(-self.logits, kind="stable"))
            self._sorted = True

    def _take(self, which: slice | npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> None:
        self.ids, self.logits = self.ids[which], self.logits[which]
