"""The `StepEngine` of encoders: each step computes one batch of texts or pairs, of one request or of several."""

from __future__ import annotations

import time
from collections.abc import Sequence

from corral.adapters.engine_kit.pair_errors import empty_pair, pair_too_long, query_too_long
from corral.adapters.engines.onnx_embeddings.batching import Batcher, EmbeddingJob
from corral.adapters.engines.onnx_embeddings.session import EncoderSession
from corral.adapters.engines.onnx_embeddings.tokenizer import EncoderTokenizer
from corral.core.errors import CorralError, EngineDied, InvalidRequest, PromptTooLong, Unsupported
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import EngineEmbedded, EngineFailed, EngineOutput, EngineRanked, Vectors
from corral.core.requests.requests import EmbedRequest, Request, RerankRequest

__all__ = ("OnnxEmbeddingsEngine",)


class OnnxEmbeddingsEngine:
    """Created by `loader.load`; one thread owns it, except the tokenizer. `dimensions` is the length of one vector."""

    def __init__(
        self,
        *,
        session: EncoderSession,
        tokenizer: EncoderTokenizer,
        batcher: Batcher,
        dimensions: int,
        info: ModelInfo,
    ) -> None:
        self._session: EncoderSession | None = session
        self._tokenizer = tokenizer
        self._batcher = batcher
        self._dimensions = dimensions
        self._info = info

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def tokenizer(self) -> EncoderTokenizer:
        return self._tokenizer

    def add_request(self, request_id: int, request: Request, mask: TokenMask | None) -> None:
        if isinstance(request, RerankRequest) and "rerank" in self._info.tasks:
            self._batcher.add(self._pairs(request_id, request))
            return
        if not isinstance(request, EmbedRequest) or "embedding" not in self._info.tasks:
            raise Unsupported(f"this model only does {', '.join(self._info.tasks)}")
        texts = [self._tokenizer.tokens(prompt) for prompt in request.inputs]
        limits = [limit for limit in (request.num_ctx, self._info.context_length) if limit is not None]
        if limits:
            texts = [self._fitted(text, min(limits), cut=request.truncate) for text in texts]
        if not all(texts):
            raise InvalidRequest("the input is empty, and this model adds no tokens of its own", "omit it")
        self._batcher.add(EmbeddingJob(request_id, texts, request.caller.principal.name))

    def step(self) -> Sequence[tuple[int, EngineOutput]]:
        chosen = self._batcher.next()
        outputs = self._computed(chosen) if chosen else []
        done = [job for job in self._batcher.jobs if job.done]
        outputs += [(job.request_id, self._answer(job)) for job in done]
        for request_id, _ in outputs:
            self._batcher.remove(request_id)
        return outputs

    def has_unfinished_requests(self) -> bool:
        return len(self._batcher.jobs) > 0

    def abort_request(self, request_id: int) -> None:
        self._batcher.remove(request_id)

    def close(self) -> None:
        for job in self._batcher.jobs:
            self._batcher.remove(job.request_id)
        self._session = None  # this was the last reference, so ONNX Runtime frees the weights

    def _pairs(self, request_id: int, request: RerankRequest) -> EmbeddingJob:
        limits = [limit for limit in (request.num_ctx, self._info.context_length) if limit is not None]
        limit = min(limits, default=None)
        query = self._tokenizer.bare(request.query)
        around = len(self._tokenizer.pair(query, ())[0])
        if limit is not None and around >= limit:
            raise query_too_long(around, limit)
        texts, seconds = [], []
        for document in map(self._tokenizer.bare, request.documents):
            if limit is not None and around + len(document) > limit:
                if not request.truncate:
                    raise pair_too_long(around + len(document), limit)
                document = document[: limit - around]
            ids, second = self._tokenizer.pair(query, document)
            if not ids:
                raise empty_pair()
            texts.append(ids)
            seconds.append(second)
        return EmbeddingJob(request_id, texts, request.caller.principal.name, seconds)

    def _fitted(self, text: list[int], limit: int, *, cut: bool) -> list[int]:
        if len(text) > limit and not cut:
            raise PromptTooLong(f"an input of {len(text)} tokens is longer than the context of {limit}")
        return self._tokenizer.shortened(text, limit)

    def _computed(self, chosen: Sequence[tuple[EmbeddingJob, int]]) -> list[tuple[int, EngineOutput]]:
        """Compute the texts and return what failed.

        If texts of several requests fail together, each request is tried alone.
        """
        try:
            self._compute(chosen)
        except CorralError as error:
            requests = dict.fromkeys(job.request_id for job, _ in chosen)
            if len(requests) == 1:
                return [(request_id, EngineFailed(error=error.info)) for request_id in requests]
            parts = [[one for one in chosen if one[0].request_id == request_id] for request_id in requests]
            return [failed for part in parts for failed in self._computed(part)]
        return []

    def _compute(self, chosen: Sequence[tuple[EmbeddingJob, int]]) -> None:
        if self._session is None:
            raise EngineDied("the model was unloaded")
        texts = [job.texts[place] for job, place in chosen]
        seconds = [job.seconds[place] for job, place in chosen if job.seconds is not None]
        began = time.perf_counter()
        for (job, place), vector in zip(chosen, self._session.vectors(texts, seconds or None), strict=True):
            job.vectors[place] = vector
        self._batcher.took(len(texts) * max(map(len, texts)), time.perf_counter() - began)

    def _answer(self, job: EmbeddingJob) -> EngineOutput:
        if job.seconds is not None:
            scores = tuple(float(job.vectors[place][0]) for place in range(len(job.texts)))
            return EngineRanked(scores=scores, prompt_tokens=job.prompt_tokens)
        data = b"".join(job.vectors[place].astype("<f4").tobytes() for place in range(len(job.texts)))
        return EngineEmbedded(
            vectors=Vectors(dimensions=self._dimensions, float32=data), prompt_tokens=job.prompt_tokens
        )
