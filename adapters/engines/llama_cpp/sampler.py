"""Turns sampling parameters into a llama.cpp sampler chain, which chooses tokens."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from typing import Any

import llama_cpp as C
import numpy as np
import numpy.typing as npt

from corral.adapters.engine_kit.sampling.rules import look_back, token_biases
from corral.adapters.engines.llama_cpp.dry import DryPrototypes
from corral.adapters.engines.llama_cpp.native_model import LlamaModel
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.errors import EngineError
from corral.core.ports.tokens import TokenMask
from corral.core.requests.requests import SamplingParams

__all__ = ("CandidateArray", "Sampler")

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class CandidateArray:
    """The array that sampler chains work on. One for the whole engine, since it samples one sequence at a time."""

    def __init__(self, vocabulary_size: int) -> None:
        self._rows = np.zeros(vocabulary_size, _CANDIDATE)
        self._ids = np.arange(vocabulary_size, dtype=np.int32)
        self._native = C.llama_token_data_array()
        self._data = self._rows.ctypes.data_as(ctypes.POINTER(C.llama_token_data))

    def allowed_ids(self, mask: bytes) -> Ids:
        """The tokens whose bit is set. Raises `EngineError` if there are none, since samplers would crash."""
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=len(self._ids))
        ids = np.flatnonzero(bits.view(np.bool_))
        if not len(ids):
            raise EngineError("the mask allows no token")
        return ids

    def choose(self, chain: Any, logits: Logits, allowed: Ids | None = None) -> int:
        if allowed is None:
            count = len(self._ids)
            self._rows["id"] = self._ids
            self._rows["logit"] = logits
        else:
            count = len(allowed)
            self._rows["id"][:count] = allowed
            self._rows["logit"][:count] = logits[allowed]
        native = self._native
        native.data = self._data  # a sampler may move it (XTC drops rows at the front)
        native.size = count
        native.selected = -1
        native.sorted = False
        C.llama_sampler_apply(chain, ctypes.byref(native))
        if native.selected < 0:
            raise EngineError("the samplers chose no token", "check the sampling options")
        return int(native.data[native.selected].id)


class Sampler:
    """Chooses the tokens of one request among those that `mask` allows. `close` frees the chain and must be called.

    Creating one may take seconds, in any thread; everything else belongs to the engine's thread.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        model: LlamaModel,
        tokenizer: LlamaTokenizer,
        ends: Sequence[int],
        num_ctx: int,
        candidates: CandidateArray,
        dry: DryPrototypes,
    ) -> None:
        self.mask: TokenMask | None = None
        self._candidates = candidates
        seed = random.getrandbits(32) if params.seed is None else params.seed & 0xFFFFFFFF
        biases = token_biases(params, tokenizer.text_tokens, ends, model.vocabulary_size)
        self._biased = np.fromiter(biases, np.intp, len(biases))
        self._bias = np.fromiter(biases.values(), np.float32, len(biases))
        self._forbidden = self._biased[self._bias == -np.inf]
        self._params, self._model, self._seed, self._num_ctx = params, model, seed, num_ctx
        self._dry = None
        if params.dry_multiplier > 0:
            self._dry = dry.get(params, look_back(params.dry_penalty_last_n, num_ctx))
        self._has_history = self._dry is not None or _has_penalties(params, num_ctx)
        # The likeliest token, after biases and penalties. Without either, numpy finds it fastest.
        self._plain_greedy = params.temperature <= 0 and not self._has_history
        self._made: Any = None

    @property
    def _chain(self) -> Any:
        """Created when it is first needed, so that waiting requests take little memory."""
        if self._made is None:
            params = self._params
            links = []
            if _has_penalties(params, self._num_ctx):
                links.append(_penalties(params, self._model, self._num_ctx))
            if self._dry is not None:
                links.append(self._dry.copy())
            if params.temperature <= 0:
                links.append(C.llama_sampler_init_greedy())
            else:
                links.extend(_random_links(params, self._model, self._seed))
            self._made = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
            for link in links:
                C.llama_sampler_chain_add(self._made, link)
            self._dry = None  # the chain has its copy
        return self._made

    def remember(self, tokens: Sequence[int]) -> None:
        """Include the prompt in the penalties."""
        if self._has_history:
            for token in tokens:
                C.llama_sampler_accept(self._chain, token)

    def choose(self, logits: Logits) -> int:
        """Return the next token. `logits` is restored afterwards."""
        allowed = self.mask.allowed() if self.mask is not None else None
        # At the end of a grammar, `ignore_eos` would leave no token: the mask takes precedence.
        if len(self._biased) and (allowed is None or not self._forbids(allowed)):
            before = logits[self._biased]
            logits[self._biased] = before + self._bias
            token = self._pick(logits, allowed)
            logits[self._biased] = before
        else:
            token = self._pick(logits, allowed)
        if self._has_history:
            C.llama_sampler_accept(self._chain, token)
        if self.mask is not None:
            self.mask.accept(token)
        return token

    def _forbids(self, allowed: bytes) -> bool:
        """Whether biases forbid everything that the mask allows."""
        return bool(np.isin(self._candidates.allowed_ids(allowed), self._forbidden).all())

    def _pick(self, logits: Logits, allowed: bytes | None) -> int:
        if not self._plain_greedy:
            ids = None if allowed is None else self._candidates.allowed_ids(allowed)
            return self._candidates.choose(self._chain, logits, ids)
        token = int(logits.argmax())
        if allowed is None or allowed[token >> 3] >> (token & 7) & 1:
            return token
        ids = self._candidates.allowed_ids(allowed)
        return int(ids[logits[ids].argmax()])

    def close(self) -> None:
        if self._made is not None:
            C.llama_sampler_free(self._made)
            self._made = None


def _has_penalties(params: SamplingParams, num_ctx: int) -> bool:
    asked = params.repeat_penalty != 1.0 or params.frequency_penalty or params.presence_penalty
    return bool(asked and look_back(params.repeat_last_n, num_ctx))


def _penalties(params: SamplingParams, model: LlamaModel, num_ctx: int) -> Any:
    return C.llama_sampler_init_penalties(
        model.vocabulary_size,
        look_back(params.repeat_last_n, num_ctx),
        params.repeat_penalty,
        params.frequency_penalty,
        params.presence_penalty,
    )


def _random_links(params: SamplingParams, model: LlamaModel, seed: int) -> list[Any]:
    """The samplers that narrow down the candidates and draw one, in llama-server's order."""
    if params.mirostat == 1:
        return [
            C.llama_sampler_init_temp(params.temperature),
            C.llama_sampler_init_mirostat(model.vocabulary_size, seed, params.mirostat_tau, params.mirostat_eta, 100),
        ]
    if params.mirostat == 2:
        return [
            C.llama_sampler_init_temp(params.temperature),
            C.llama_sampler_init_mirostat_v2(seed, params.mirostat_tau, params.mirostat_eta),
        ]
    links = []
    if params.top_n_sigma > 0:
        links.append(C.llama_sampler_init_top_n_sigma(params.top_n_sigma))
    if params.top_k > 0:
        links.append(C.llama_sampler_init_top_k(params.top_k))
    if params.typical_p < 1.0:
        links.append(C.llama_sampler_init_typical(params.typical_p, 1))
    if params.top_p < 1.0:
        links.append(C.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p > 0:
        links.append(C.llama_sampler_init_min_p(params.min_p, 1))
    if params.xtc_probability > 0:
        links.append(C.llama_sampler_init_xtc(params.xtc_probability, params.xtc_threshold, 1, seed))
    if params.dynatemp_range > 0:
        links.append(C.llama_sampler_init_temp_ext(params.temperature, params.dynatemp_range, params.dynatemp_exponent))
    else:
        links.append(C.llama_sampler_init_temp(params.temperature))
    links.append(C.llama_sampler_init_dist(seed))
    return links
