"""Which sampling options each kind of server has, and under which names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from corral.core.requests.requests import ContextPolicy, SamplingParams

__all__ = ("mapped_context", "mapped_sampling")

_ALL = {field: field for field in SamplingParams.__struct_fields__}
_OPENAI = {
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "num_predict": "max_tokens",
    "stop": "stop",
    "logit_bias": "logit_bias",
}
_VLLM = _OPENAI | {
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "ignore_eos": "ignore_eos",
}
_OLLAMA = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty",
    "frequency_penalty", "seed", "num_predict", "stop",
)  # fmt: skip
_NAMES: Mapping[str, Mapping[str, str]] = {
    "openai": _OPENAI,
    "vllm": _VLLM,
    "sglang": _VLLM,
    "llama-server": _ALL | {"num_predict": "max_tokens"},
    "ollama": {name: name for name in _OLLAMA},
    "corral": _ALL,
}
_DEFAULT_SAMPLING = SamplingParams()
_DEFAULT_CONTEXT = ContextPolicy()
_LEAST_BIAS = -100.0  # OpenAI's way to forbid a token


def mapped_sampling(sampling: SamplingParams, api: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The options in the server's form, and the names of those that it does not have.

    Options of Ollama are also sent if they have their default value, since the server's default may differ. All others
    are off by default everywhere. Options that the server does not have are named only if they differ from the default.
    """
    names = _NAMES[api]
    sent: dict[str, Any] = {}
    ignored: list[str] = []
    for field in SamplingParams.__struct_fields__:
        value = _bias(sampling, api) if field == "logit_bias" else getattr(sampling, field)
        stated = getattr(sampling, field) != getattr(_DEFAULT_SAMPLING, field)
        if field in names and value is not None:
            if (stated or field in _OLLAMA) and value != ():
                sent[names[field]] = value
        elif stated:
            ignored.append(field)
    if api in ("vllm", "sglang") and sampling.top_k <= 0:
        sent["top_k"] = -1  # all of them
    return sent, tuple(ignored)


def mapped_context(context: ContextPolicy, api: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The same for the context policy. If the server has no option for it, its own context length applies."""
    stated = {
        field: getattr(context, field)
        for field in ("num_ctx", "num_keep")
        if getattr(context, field) != getattr(_DEFAULT_CONTEXT, field)
    }
    if api in ("ollama", "corral"):
        return stated, ()
    return {}, tuple(stated)


def _bias(sampling: SamplingParams, api: str) -> Any:
    """None if the server cannot express it: OpenAI's form has only ids."""
    if not sampling.logit_bias:
        return ()
    if api in ("llama-server", "corral"):
        return [[token, False if bias == -math.inf else bias] for token, bias in sampling.logit_bias]
    if any(isinstance(token, str) for token, _ in sampling.logit_bias):
        return None
    return {str(token): max(bias, _LEAST_BIAS) for token, bias in sampling.logit_bias}
