"""An engine without weights: deterministic text, correct token counts, and failures on demand.

It answers with made-up words that depend only on the prompt and the seed, or with a fixed `answer`. It runs models
whose manifest has the format ``fake``, and any model if it is requested by name.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import struct
import time
from collections.abc import Mapping, Sequence

import msgspec

from corral.adapters.engine_kit.admission import AdmittedPrompt, admitted, prefilled
from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.adapters.engines.fake.ranking import ranked
from corral.adapters.engines.fake.sampling import choose
from corral.adapters.engines.fake.tokenizer import EOS, FIRST_WORD, WORDS, FakeTokenizer
from corral.core.errors import CorralError, ErrorInfo, PromptTooLong, Unsupported
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import (
    EngineEmbedded,
    EngineFailed,
    EngineFinished,
    EngineOutput,
    Prefilled,
    Token,
    TokenLogprob,
    TopLogprob,
    Vectors,
)
from corral.core.requests.requests import CompletionRequest, EmbedRequest, Request, RerankRequest, ignored_options
from corral.core.stepping.fair_queue import FairQueue

__all__ = ("FakeEngine",)

_CANDIDATES = 8
_HONOURED = {"temperature", "top_k", "top_p", "seed", "num_predict", "stop", "ignore_eos", "logit_bias"}


class _Sequence:
    """One unfinished completion."""

    def __init__(self, request: CompletionRequest, prompt: AdmittedPrompt, mask: TokenMask | None) -> None:
        self.request = request
        self.prompt = prompt
        self.ids = ids = list(prompt.ids)
        self.prompt_tokens = len(ids)
        self.prefilled = 0
        self.began_ns = 0
        self.mask = mask
        self.num_ctx = prompt.num_ctx
        self.random = random.Random(request.sampling.seed)
        # An answer's length depends on the prompt alone, so that it does not change with the seed.
        self.answer_tokens = 8 + hashlib.blake2b(struct.pack(f"<{len(ids)}i", *ids), digest_size=1).digest()[0] % 24


class FakeEngine:
    """A `StepEngine` with chunked prefill and continuous batching, like real ones."""

    def __init__(self, options: FakeLoadOptions) -> None:
        self._options = options
        self._tokenizer = FakeTokenizer()
        self._answer = None if options.answer is None else self._tokenizer.text_ids(options.answer)
        self._waiting: FairQueue[tuple[int, _Sequence]] = FairQueue(lambda item: item[1].request.caller.principal.name)
        self._running: dict[int, _Sequence] = {}
        self._whole: dict[int, EmbedRequest | RerankRequest] = {}  # answered by one step
        self._generated = 0
        self.info = ModelInfo(
            tasks=frozenset({"completion", "embedding", "rerank"}),
            features=frozenset({"constraints", "exact", "logprobs", "seed", "tokenize"}),
            context_length=options.num_ctx,
            parallel=options.parallel,
            memory_bytes={"cpu": options.memory_bytes},
            longest_token_bytes=options.longest_token_bytes,
        )

    @property
    def tokenizer(self) -> FakeTokenizer:
        return self._tokenizer

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        if isinstance(request, EmbedRequest | RerankRequest):
            self._whole[request_id] = request
        elif isinstance(request, CompletionRequest):
            [ids] = self._tokenizer.encode([request.prompt])
            self._waiting.append((request_id, _Sequence(request, admitted(request, ids, self._options.num_ctx), mask)))
        else:
            raise Unsupported(f"the fake engine does not take a {type(request).__name__}")

    def abort_request(self, request_id: int) -> None:
        self._whole.pop(request_id, None)
        if self._running.pop(request_id, None) is None:
            for item in self._waiting:
                if item[0] == request_id:
                    self._waiting.remove(item)
                    return

    def has_unfinished_requests(self) -> bool:
        return bool(self._running or self._waiting or self._whole)

    def step(self) -> list[tuple[int, EngineOutput]]:
        if self._options.step_delay_s:
            time.sleep(self._options.step_delay_s)
        outputs: list[tuple[int, EngineOutput]] = [(id, self._answered(one)) for id, one in self._whole.items()]
        self._whole.clear()
        while self._waiting and len(self._running) < self._options.parallel:
            request_id, sequence = self._waiting.popleft()
            sequence.began_ns = time.perf_counter_ns()
            self._running[request_id] = sequence
        budget = self._options.max_prefill_tokens
        for request_id, sequence in list(self._running.items()):
            if sequence.prefilled == sequence.prompt_tokens:
                outputs += ((request_id, output) for output in self._generate(sequence))
                if isinstance(outputs[-1][1], EngineFinished | EngineFailed):
                    del self._running[request_id]
            elif budget:
                chunk = min(budget, sequence.prompt_tokens - sequence.prefilled)
                budget -= chunk
                sequence.prefilled += chunk
                if sequence.prefilled == sequence.prompt_tokens:
                    outputs.append((request_id, _prefilled(sequence)))
        return outputs

    def close(self) -> None:
        self._running.clear()
        self._waiting.clear()
        self._whole.clear()

    def _generate(self, sequence: _Sequence) -> list[EngineOutput]:
        options = self._options
        if len(sequence.ids) >= sequence.num_ctx:
            return [EngineFinished(reason="length")]
        self._generated += 1
        if self._generated == options.fail_after:
            return [EngineFailed(error=ErrorInfo(code="engine_error", message="the fake engine is configured to fail"))]
        if self._generated == options.raise_after:
            raise RuntimeError("the fake engine is configured to raise")
        if self._generated == options.crash_after:
            os.kill(os.getpid(), signal.SIGKILL)
        while self._generated == options.hang_after:
            time.sleep(3600)
        try:
            token = self._sample(sequence)
        except CorralError as error:  # raised by its mask
            return [EngineFailed(error=error.info)]
        return [token, EngineFinished(reason="stop")] if token.token_id == EOS else [token]

    def _sample(self, sequence: _Sequence) -> Token:
        sampling = sequence.request.sampling
        logits = self._logits(sequence)
        logprobs = self._logprobs(logits) if sequence.request.logprobs is not None else ()
        allowed = sequence.mask.allowed() if sequence.mask is not None else None
        if allowed is not None:
            legal = [id for id in range(len(self._tokenizer.pieces)) if allowed[id >> 3] >> (id & 7) & 1]
            logits = {id: logits.get(id, -50.0) for id in legal}
        chosen = choose(logits, sampling, sequence.random)
        if sequence.mask is not None:
            sequence.mask.accept(chosen)
        sequence.ids.append(chosen)
        piece = self._tokenizer.pieces[chosen]
        if sequence.request.logprobs is None:
            return Token(token_id=chosen, piece=piece)
        own = next((one.logprob for id, one in logprobs if id == chosen), -50.0)
        top = tuple(one for _, one in logprobs[: sequence.request.logprobs])
        return Token(token_id=chosen, piece=piece, logprob=TokenLogprob(token=piece, logprob=own, top=top))

    def _logits(self, sequence: _Sequence) -> dict[int, float]:
        """A few words that depend on the last tokens, or one certain token if the answer is fixed or at its end."""
        generated = len(sequence.ids) - sequence.prompt_tokens
        key = struct.pack("<5i", generated, *sequence.ids[-4:], *(0,) * max(0, 4 - len(sequence.ids)))
        drawn = struct.unpack(f"<{_CANDIDATES}H", hashlib.blake2b(key, digest_size=2 * _CANDIDATES).digest())
        logits = {FIRST_WORD + 2 * (one % len(WORDS)): 4.0 - 0.5 * rank for rank, one in enumerate(drawn)}
        if self._answer is not None and generated < len(self._answer):
            logits[self._answer[generated]] = 60.0
        elif not sequence.request.sampling.ignore_eos and (
            self._answer is not None or generated >= sequence.answer_tokens
        ):
            logits[EOS] = 60.0
        for token, bias in sequence.request.sampling.logit_bias:
            for id in [token] if isinstance(token, int) else self._tokenizer.text_ids(token):
                logits[id] = logits.get(id, -50.0) + bias
        return logits

    def _logprobs(self, logits: Mapping[int, float]) -> Sequence[tuple[int, TopLogprob]]:
        total = math.log(sum(math.exp(logit) for logit in logits.values()))
        ranked = sorted(logits.items(), key=lambda item: -item[1])
        return [(id, TopLogprob(token=self._tokenizer.pieces[id], logprob=logit - total)) for id, logit in ranked]

    def _answered(self, request: EmbedRequest | RerankRequest) -> EngineOutput:
        if isinstance(request, RerankRequest):
            return ranked(request, self._tokenizer, self._options.num_ctx)
        return self._embed(request)

    def _embed(self, request: EmbedRequest) -> EngineOutput:
        num_ctx = min(request.num_ctx or self._options.num_ctx, self._options.num_ctx)
        rows, tokens = [], 0
        for ids in self._tokenizer.encode(request.inputs):
            if len(ids) > num_ctx and not (request.truncate and self._options.cuts_inputs):
                problem = PromptTooLong(f"an input has {len(ids)} tokens, but the context holds {num_ctx}")
                return EngineFailed(error=problem.info)
            tokens += min(len(ids), num_ctx)
            # A sum over tokens, so that texts with common words are close to each other.
            row = [math.inf if self._options.infinite_vectors else 0.0] * self._options.dimensions
            for id in ids[:num_ctx]:
                draw = random.Random(id)
                row = [value + draw.uniform(-1.0, 1.0) for value in row]
            rows.append(struct.pack(f"<{len(row)}f", *row))
        vectors = Vectors(dimensions=self._options.dimensions, float32=b"".join(rows))
        return EngineEmbedded(vectors=vectors, prompt_tokens=tokens)


def _prefilled(sequence: _Sequence) -> Prefilled:
    told = prefilled(sequence.request, sequence.prompt, cached=0, shifts=False, began_ns=sequence.began_ns)
    ignored = ignored_options(sequence.request.sampling, _HONOURED)
    return msgspec.structs.replace(told, ignored_options=(*ignored, *told.ignored_options))
