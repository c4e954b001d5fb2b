"""`LogitsSampler`: chooses the tokens of one request from logits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from corral.adapters.engine_kit.sampling.candidates import Candidates, Logits, drop_far_below
from corral.adapters.engine_kit.sampling.dry import Dry
from corral.adapters.engine_kit.sampling.mirostat import Mirostat
from corral.adapters.engine_kit.sampling.penalties import Penalties
from corral.adapters.engine_kit.sampling.rules import look_back, token_biases
from corral.core.errors import EngineError
from corral.core.ports.tokens import TokenMask
from corral.core.requests.requests import SamplingParams

__all__ = ("LogitsSampler",)


class LogitsSampler:
    """Applies every field of `SamplingParams` that affects the choice, with llama.cpp's meaning and in llama-server's
    order:

    mask, biases, penalties, DRY; then top-nσ, top-k, typical, top-p, min-p, XTC, temperature, the draw; or mirostat
    after the temperature. Temperature 0 takes the likeliest token after biases, penalties and DRY. Equal seeds and
    equal logits choose equal tokens, whatever other requests do; the numbers drawn are NumPy's, not llama.cpp's.

    `vocabulary_size` is how many token ids there are; logits beyond it are padding and never chosen. `num_ctx` is how
    far -1 looks back. `encode` returns a text's ids with nothing added; `decode_piece` returns a token's bytes, with
    control tokens spelled out. `ends` are the ids that ``ignore_eos`` forbids. Raises `InvalidOption` for a bias on a
    token that does not exist.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        vocabulary_size: int,
        num_ctx: int,
        encode: Callable[[str], Sequence[int]],
        decode_piece: Callable[[int], bytes],
        ends: Collection[int],
        mask: TokenMask | None,
    ) -> None:
        self._params = params
        self._size = vocabulary_size
        self._mask = mask
        self._random = np.random.default_rng(None if params.seed is None else params.seed & 0xFFFF_FFFF_FFFF_FFFF)
        biases = token_biases(params, encode, ends, vocabulary_size)
        self._biased = np.fromiter(biases, np.intp, len(biases))
        self._bias = np.fromiter(biases.values(), np.float32, len(biases))
        self._looks_back: list[Penalties | Dry] = []
        last_n = look_back(params.repeat_last_n, num_ctx)
        if last_n and (params.repeat_penalty != 1.0 or params.presence_penalty or params.frequency_penalty):
            self._looks_back.append(Penalties(params, last_n=last_n, vocabulary_size=vocabulary_size))
        last_n = look_back(params.dry_penalty_last_n, num_ctx)
        if last_n and params.dry_multiplier > 0 and params.dry_base >= 1:
            self._looks_back.append(Dry(params, last_n=last_n, encode=encode, decode_piece=decode_piece))
        self._mirostat = (
            Mirostat(params.mirostat, tau=params.mirostat_tau, eta=params.mirostat_eta, vocabulary_size=vocabulary_size)
            if params.mirostat in (1, 2)
            else None
        )

    def remember(self, ids: Sequence[int]) -> None:
        """Include the prompt in the penalties."""
        for penalty in self._looks_back:
            penalty.remember(ids)

    def choose(self, logits: Logits) -> int:
        """Return the next token; `logits` is not changed. Raises `EngineError` if no token is possible."""
        logits = logits[: self._size]
        weighed = self._weigh(logits)
        allowed = self._allowed(len(logits))
        if allowed is not None:
            weighed = np.where(allowed, weighed, np.float32(-np.inf))
            if not weighed.max() > -np.inf:  # biases forbid everything that the mask allows: the mask takes precedence
                weighed = np.where(allowed, logits, np.float32(-np.inf))
        token_id = int(weighed.argmax()) if self._params.temperature <= 0 else self._draw(weighed)
        if not weighed[token_id] > -np.inf:
            raise EngineError("no token can come next: every logit is forbidden or not a number", "check logit_bias")
        for penalty in self._looks_back:
            penalty.remember((token_id,))
        if self._mask is not None:
            self._mask.accept(token_id)
        return token_id

    def _allowed(self, size: int) -> npt.NDArray[np.bool_] | None:
        bits = self._mask.allowed() if self._mask is not None else None
        if bits is None:
            return None
        return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little", count=size).view(np.bool_)

    def _weigh(self, logits: Logits) -> Logits:
        """The logits after biases and penalties."""
        if not len(self._biased) and not self._looks_back:
            return logits
        logits = logits.copy()
        logits[self._biased] += self._bias
        for penalty in self._looks_back:
            penalty.apply(logits)
        return logits

    def _draw(self, logits: Logits) -> int:
        params = self._params
        if params.top_n_sigma > 0 and self._mirostat is None:
            logits = drop_far_below(logits, params.top_n_sigma)
        candidates = Candidates(logits, params.top_k if self._mirostat is None else 0)
        if not len(candidates):
            return 0  # also forbidden, which the caller notices
        if self._mirostat is not None:
            candidates.cool(params.temperature)
            return self._mirostat.choose(candidates, self._random.random())
        if params.typical_p < 1.0:
            candidates.keep_typical(params.typical_p)
        if params.top_p < 1.0:
            candidates.keep_top_p(params.top_p)
        if params.min_p > 0:
            candidates.keep_min_p(params.min_p)
        if params.xtc_probability > 0 and self._random.random() <= params.xtc_probability:
            candidates.drop_top_choices(params.xtc_threshold)
        if params.dynatemp_range > 0:
            candidates.cool_by_entropy(params.temperature, params.dynatemp_range, params.dynatemp_exponent)
        else:
            candidates.cool(params.temperature)
        return int(candidates.ids[candidates.draw(self._random.random())])
