"""Scores documents against a query, in groups, so that other requests get their turn."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import aclosing

from corral.core.access.limits import RateLimits
from corral.core.errors import CorralError, EngineError, Unsupported
from corral.core.generation.assembling import resolved_options
from corral.core.generation.early_length_check import require_room
from corral.core.generation.grouping import groups_of
from corral.core.generation.opening import Catalog, ModelOpener
from corral.core.generation.refusals import require_task
from corral.core.ports.running import RunningModel, Task
from corral.core.requests.caller import Caller
from corral.core.requests.calls import RerankCall, RerankResult
from corral.core.requests.outputs import Ranked
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import RerankRequest

__all__ = ("Reranking", "rank_documents")

_RERANKING: frozenset[Task] = frozenset({"rerank"})

_MOST_NAMED = 3
"""Rerankers that an error names."""


class Reranking:
    """The use case. What it loads and raises is like that of the others."""

    def __init__(self, catalog: Catalog, models: ModelOpener, limits: RateLimits) -> None:
        self._catalog = catalog
        self._models = models
        self._limits = limits

    async def rerank(self, call: RerankCall) -> RerankResult:
        """As `InferenceService.rerank`."""
        started_ns = time.perf_counter_ns()
        view = await self._models.view(call)
        options = resolved_options(view, call.options)
        if "rerank" not in view.capabilities and not (call.engine or options.engine):
            able = await self.rerankers(call.caller)
            raise Unsupported(f'"{call.model}" does not support rerank', _instead(able))
        async with self._models.lease(view, call, options, _RERANKING) as lease:
            require_task(lease, "rerank", call.model, "rerank")
            ranked = Ranked(scores=(), prompt_tokens=0)
            if call.documents:
                ranked = await rank_documents(lease.model, call, options.asked_num_ctx)
                self._limits.charge(call.caller.principal, ranked.prompt_tokens)
            return RerankResult(
                scores=ranked.scores,
                prompt_tokens=ranked.prompt_tokens,
                load_ns=lease.load_ns,
                total_ns=time.perf_counter_ns() - started_ns,
                ignored_options=(*options.unknown, *lease.ignored_options),
            )

    async def rerankers(self, caller: Caller) -> list[str]:
        """As `InferenceService.rerankers`."""
        found: list[str] = []
        for record in await self._catalog.list():
            if not caller.principal.may_use(record.name.short):
                continue
            try:
                capabilities = (await self._catalog.view(record.name)).capabilities
            except CorralError:  # its weights cannot be read, or it has just been deleted
                continue
            if "rerank" in capabilities:
                found.append(record.name.short)
                if len(found) == _MOST_NAMED:
                    break
        return found


def _instead(able: Sequence[str]) -> str:
    if able:
        return f"use a reranker: {', '.join(able)}"
    return "use a reranker, a cross-encoder such as bge-reranker-v2-m3; there is none here"


async def rank_documents(model: RunningModel, call: RerankCall, num_ctx: int | None) -> Ranked:
    """One score for each of the call's documents, in order.

    Raises `PromptTooLong` for a query that leaves no room for a document, and for a document that must not be cut.
    """
    if not call.truncate:
        most = model.info.most_tokens(num_ctx)
        for document in call.documents:
            require_room(model.info, len(call.query) + len(document), most)
    scores: list[float] = []
    prompt_tokens = 0
    for group in groups_of(call.documents, model.info, most=128, most_characters=262_144):
        request = RerankRequest(
            caller=call.caller,
            query=(TextPart(text=call.query),),
            documents=tuple((TextPart(text=document),) for document in group),
            truncate=call.truncate,
            num_ctx=num_ctx,
        )
        part = await _ranked(model, request, call.model)
        scores += part.scores
        prompt_tokens += part.prompt_tokens
    return Ranked(scores=tuple(scores), prompt_tokens=prompt_tokens)


async def _ranked(model: RunningModel, request: RerankRequest, name: str) -> Ranked:
    async with aclosing(model.run(request)) as outputs:
        async for output in outputs:
            if isinstance(output, Ranked):
                if len(output.scores) != len(request.documents):
                    counts = f"{len(output.scores)} scores for {len(request.documents)} documents"
                    raise EngineError(f'"{name}" returned {counts}')
                if not all(map(math.isfinite, output.scores)):
                    raise EngineError(f'"{name}" returned a score that is NaN or infinite')
                return output
    raise EngineError(f'"{name}" returned no scores')
