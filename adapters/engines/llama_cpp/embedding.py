"""Embeddings and scores: a second context with pooling, created on first use, for several inputs per batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from corral.adapters.engine_kit.step_timing import Stopwatch
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.growing import KEPT_S
from corral.adapters.engines.llama_cpp.interrupting import INTERRUPTED
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_batch import Batch
from corral.adapters.engines.llama_cpp.query_pairs import DividedPairs, TemplatePairs
from corral.adapters.engines.llama_cpp.rank_head import RankHead
from corral.adapters.engines.llama_cpp.tokenizer import LlamaTokenizer
from corral.core.errors import CorralError, EngineError, InvalidRequest, PromptTooLong, Unsupported
from corral.core.requests.outputs import EngineEmbedded, EngineFailed, EngineOutput, EngineRanked, Vectors
from corral.core.requests.requests import EmbedRequest, RerankRequest
from corral.core.stepping.fair_queue import FairQueue

__all__ = ("LlamaEmbedder",)


class _Job:
    def __init__(self, request_id: int, request: EmbedRequest | RerankRequest, inputs: list[list[int]]) -> None:
        self.request_id = request_id
        self.owner = request.caller.principal.name
        self.inputs = inputs
        self.vectors: list[npt.NDArray[np.float32]] = []
        self.computed = 0  # tokens of the next input that are already in memory

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.inputs))


class LlamaEmbedder:
    """Each step computes one batch of one `EmbedRequest` or `RerankRequest`; the requests take turns.

    An input that is longer than `piece` allows is computed in several steps, and the next request waits until it is
    done, since the context holds only one. Contexts that pool over all tokens need each input in one piece: for them,
    `piece` is None. `make_context` is called for the first request, and again for longer inputs, with the number of
    tokens that it must have room for: one of `sizes`, of which the last is the most tokens of an input. A vector
    depends slightly on the other inputs of its batch; to avoid this, `inputs_at_once` is 1. `tuner` sets the number of
    threads, and is given the time of each batch. `pairs` and `head` belong to a model that scores pairs of texts, and
    makes no vectors.
    """

    def __init__(
        self,
        make_context: Callable[[int], LlamaContext],
        tokenizer: LlamaTokenizer,
        *,
        sizes: Sequence[int],
        inputs_at_once: int,
        tokens_at_once: int,
        tuner: ThreadTuner,
        piece: Callable[[int], int] | None = None,
        pairs: DividedPairs | TemplatePairs | None = None,
        head: RankHead | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_context = make_context
        self._tokenizer = tokenizer
        self._sizes = sizes
        self._limit = sizes[-1]
        self._inputs_at_once = inputs_at_once
        self._tokens_at_once = tokens_at_once
        self._tuner = tuner
        self._piece = piece
        self._pairs = pairs
        self._head = head
        self._clock_s = clock_s
        self._context: LlamaContext | None = None
        self._batch = Batch(0)
        self._used_at_s = 0.0
        self._jobs: FairQueue[_Job] = FairQueue(lambda job: job.owner)
        self._job: _Job | None = None  # whose turn it is

    @property
    def busy(self) -> bool:
        return bool(self._jobs) or self._job is not None

    def add(self, request_id: int, request: EmbedRequest | RerankRequest) -> None:
        limit = min(request.num_ctx or self._limit, self._limit)
        if isinstance(request, RerankRequest):
            if self._pairs is None:
                raise Unsupported("this model does not score documents: it is not a cross-encoder")
            inputs = self._pairs.inputs(request, limit)
        elif self._pairs is None:
            inputs = self._inputs(request, limit)
        else:
            raise Unsupported("this model makes no vectors: it is a cross-encoder")
        self._jobs.append(_Job(request_id, request, inputs))

    def _inputs(self, request: EmbedRequest, limit: int) -> list[list[int]]:
        inputs = []
        for prompt in request.inputs:
            tokens = self._tokenizer.tokens(prompt)
            if len(tokens) > limit:
                if not request.truncate:
                    raise PromptTooLong(f"an input of {len(tokens)} tokens is longer than the context of {limit}")
                tokens = self._tokenizer.shortened(tokens, limit)
            if not tokens:
                raise InvalidRequest("the input is empty, and this model adds no tokens of its own", "omit it")
            inputs.append(tokens)
        return inputs

    def abort(self, request_id: int) -> None:
        if self._job is not None and self._job.request_id == request_id:
            self._job = None
            return
        for job in self._jobs:
            if job.request_id == request_id:
                self._jobs.remove(job)
                return

    def step(self, outputs: list[tuple[int, EngineOutput]]) -> None:
        if not self.busy:
            return
        job = self._jobs.popleft() if self._job is None else self._job
        self._job = None
        try:
            self._compute(job)
        except CorralError as error:
            outputs.append((job.request_id, EngineFailed(error=error.info)))
            return
        if job.computed:
            self._job = job
        elif len(job.vectors) < len(job.inputs):
            self._jobs.append(job)
        else:
            outputs.append((job.request_id, self._answer(job)))

    def _answer(self, job: _Job) -> EngineOutput:
        if self._head is not None:
            scores = tuple(map(self._head.score, job.vectors))
            return EngineRanked(scores=scores, prompt_tokens=job.prompt_tokens)
        dimensions = len(job.vectors[0]) if job.vectors else 0
        data = b"".join(vector.astype("<f4").tobytes() for vector in job.vectors)
        return EngineEmbedded(vectors=Vectors(dimensions=dimensions, float32=data), prompt_tokens=job.prompt_tokens)

    def _compute(self, job: _Job) -> None:
        if not job.inputs:
            return
        first, start = job.inputs[len(job.vectors)], job.computed
        context = self._context_for(len(first))
        # Without a KV cache, the inputs of a batch need no cells.
        chosen = self._next_inputs(job, context.cells if context.memory else self._tokens_at_once)
        if start == 0 and context.memory:
            context.clear()
        rest = len(first) - start
        room = rest if self._piece is None else min(self._piece(rest), context.batch)
        if room < rest or start:
            job.computed = start + room
            chosen = [first[start : job.computed]]
        self._batch.fill_inputs(chosen, start)
        context.set_threads(self._tuner.next_threads())
        watch = Stopwatch()
        # What some kinds of memory had before a later piece would be lost.
        code = context.decode_interruptibly(self._batch, None if start else self._tuner.tolerated)
        if code == INTERRUPTED:
            self._tuner.interrupted(watch.read())
            job.computed = start
            return
        total = sum(map(len, chosen))
        if code != 0:
            raise EngineError(f"llama.cpp could not compute {len(chosen)} inputs of {total} tokens (code {code})")
        self._tuner.record_prefill(total, watch.read())
        if 0 < job.computed < len(first):
            return
        job.computed = 0
        width = None if self._head is None else self._head.outputs
        job.vectors.extend(context.pooled(index, width) for index in range(len(chosen)))

    def _context_for(self, tokens: int) -> LlamaContext:
        self._used_at_s = self._clock_s()
        if self._context is None or self._context.cells < tokens:
            self._drop_context()
            cells = next(size for size in self._sizes if size >= tokens)
            self._context = self._make_context(cells)
            self._batch = Batch(max(cells, self._tokens_at_once))
        return self._context

    def idle(self) -> float | None:
        """Give up the context if it has not been used for a while. A `BackgroundWork`."""
        if self._context is None:
            return None
        rest_s = self._used_at_s + KEPT_S - self._clock_s()
        if rest_s > 0:
            return rest_s
        self._drop_context()
        return None

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def _next_inputs(self, job: _Job, room: int) -> list[list[int]]:
        """The inputs of the next batch, at least one, and no more than `room` tokens if they are several."""
        chosen: list[list[int]] = []
        total = 0
        most = min(room, self._tokens_at_once) if self._piece is None else self._piece(self._tokens_at_once)
        for tokens in job.inputs[len(job.vectors) : len(job.vectors) + self._inputs_at_once]:
            total += len(tokens)
            if chosen and total > most:
                break
            chosen.append(tokens)
        return chosen

    def close(self) -> None:
        self._jobs.clear()
        self._drop_context()
