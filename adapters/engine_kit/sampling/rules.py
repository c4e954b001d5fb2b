"""Rules that all samplers share: biases, how far they look back, and log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from corral.adapters.engine_kit.sampling.candidates import Logits
from corral.core.errors import InvalidOption
from corral.core.requests.outputs import TokenLogprob, TopLogprob
from corral.core.requests.requests import SamplingParams

__all__ = ("look_back", "texts_take_time", "token_biases", "token_logprob")

_QUICK_CHARS = 1024
_MOST_BIAS = 1e30  # an infinite logit would make NaN of others


def token_biases(
    params: SamplingParams, encode: Callable[[str], Sequence[int]], ends: Collection[int], vocabulary_size: int
) -> dict[int, float]:
    """Compute what is added to which token's logit. A text stands for each of its tokens, as in llama-server.

    `encode` returns a text's ids with nothing added; `ends` are the ids that ``ignore_eos`` forbids. Raises
    `InvalidOption` for a token that does not exist.
    """
    biases: dict[int, float] = {}
    for key, bias in params.logit_bias:
        for token_id in [key] if isinstance(key, int) else encode(key):
            if not 0 <= token_id < vocabulary_size:
                raise InvalidOption(f"logit_bias: token {token_id} is not in the vocabulary of {vocabulary_size}")
            biases[token_id] = biases.get(token_id, 0.0) + bias
    for token_id, bias in biases.items():
        biases[token_id] = -np.inf if np.isnan(bias) else min(bias, _MOST_BIAS)
    if params.ignore_eos:
        biases.update((token_id, -np.inf) for token_id in ends if token_id < vocabulary_size)
    return biases


def texts_take_time(params: SamplingParams) -> bool:
    """Whether `token_biases` must tokenize too much text to do so between two steps."""
    return sum(len(key) for key, _ in params.logit_bias if isinstance(key, str)) > _QUICK_CHARS


def look_back(last_n: int, num_ctx: int) -> int:
    """The number of tokens to look back at: -1 is the whole context, which is also the maximum."""
    return num_ctx if last_n < 0 else min(last_n, num_ctx)


def token_logprob(logits: Logits, token_id: int, top: int, spelt: Callable[[int], bytes]) -> TokenLogprob:
    """The token's natural log-probability, and those of the `top` likeliest tokens. `spelt` returns a token's bytes."""
    highest = float(logits.max())
    normaliser = highest + float(np.log(np.exp(logits - np.float32(highest)).sum(dtype=np.float64)))
    top = min(top, len(logits))
    likeliest = np.argpartition(logits, -top)[-top:] if top > 0 else np.empty(0, np.intp)
    likeliest = likeliest[np.argsort(-logits[likeliest], kind="stable")]
    return TokenLogprob(
        token=spelt(token_id),
        logprob=float(logits[token_id]) - normaliser,
        top=tuple(
            TopLogprob(token=spelt(other), logprob=float(logits[other]) - normaliser) for other in likeliest.tolist()
        ),
    )
