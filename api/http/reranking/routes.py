"""``/api/rerank``, ``/v1/rerank``, ``/v2/rerank`` and ``/rerank``."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, Response, post

from corral.api.http.callers import caller_of
from corral.api.http.errors import JSON, ApiError
from corral.api.http.prologue import INFERENCE_STATUSES, begin
from corral.api.http.remarks import Remarks
from corral.api.http.reranking.bodies import RerankBody
from corral.core.errors import PromptTooLong
from corral.core.requests.calls import RerankCall
from corral.core.requests.relevance import relevance
from corral.core.runtime import Runtime

__all__ = ("rerank", "rerank_at_root", "rerank_v1", "rerank_v2")

_NO_MODEL = ApiError(400, "model is required")
_NOT_FOUND = "model '{}' not found"

_encode = msgspec.json.Encoder().encode


class RankedText(msgspec.Struct, frozen=True, kw_only=True):
    text: str


class RankedEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`index` is the document's place in the request. `document` is there if it was asked for."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class RerankUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class RerankTokens(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int


class RerankMeta(msgspec.Struct, frozen=True, kw_only=True):
    tokens: RerankTokens


class RerankReply(msgspec.Struct, frozen=True, kw_only=True):
    """Jina's answer (`model`, `object`, `usage`) and Cohere's (`id`, `meta`), with Ollama's durations in nanoseconds.

    `results` has the best document first, and `top_n` of them at most.
    """

    id: str
    object: str = "list"
    model: str
    results: Sequence[RankedEntry]
    usage: RerankUsage
    meta: RerankMeta
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class RankedIndex(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of TEI's answer, which is a list."""

    index: int
    score: float
    text: str | None = None


async def _answer(request: Request[Any, Any, Any]) -> Response[bytes]:
    begun = await begin(request, RerankBody, no_model=_NO_MODEL, not_found=_NOT_FOUND, default_model=_only_reranker)
    body = begun.body
    texts = body.document_texts
    call = RerankCall(
        model=begun.model,
        caller=begun.caller,
        query=body.query_text,
        documents=texts,
        truncate=body.may_cut,
        options=body.options,
        keep_alive_s=begun.keep_alive_s,
        engine=body.engine or None,
    )
    try:
        with begun:
            result = await begun.unless_client_leaves(begun.runtime.inference.rerank(call))
    except PromptTooLong as error:
        text = f"{error.message}; {error.remedy}" if error.remedy else error.message
        raise ApiError(400, text, code=error.code) from error
    begun.log.prompt_tokens = count = result.prompt_tokens
    scores = result.scores if body.raw_scores else tuple(map(relevance, result.scores))
    best = result.best_first[: body.top_n]
    shown = body.return_documents or body.return_text
    reply: RerankReply | list[RankedIndex]
    if body.is_tei:
        reply = [RankedIndex(index=one, score=scores[one], text=texts[one] if shown else None) for one in best]
    else:
        reply = RerankReply(
            id=str(uuid.uuid4()),
            model=body.model,
            results=[
                RankedEntry(
                    index=one, relevance_score=scores[one], document=RankedText(text=texts[one]) if shown else None
                )
                for one in best
            ],
            usage=RerankUsage(prompt_tokens=count, total_tokens=count),
            meta=RerankMeta(tokens=RerankTokens(input_tokens=count)),
            total_duration=result.total_ns,
            load_duration=result.load_ns,
            prompt_eval_count=count,
        )
    remarks = Remarks((*body.unknown, *result.ignored_options))
    headers = {name.decode(): value.decode() for name, value in remarks.headers()}
    return Response(_encode(reply), media_type=JSON, headers=headers)


_OPT = {"body": RerankBody, "reply": RerankReply, "statuses": INFERENCE_STATUSES}


@post("/api/rerank", status_code=200, operation_id="rerank", opt=_OPT)
async def rerank(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Scores documents by how well they answer a query, the best first. Scores are between 0 and 1, unless raw."""
    return await _answer(request)


@post("/v1/rerank", status_code=200, operation_id="createRerank", opt=_OPT)
async def rerank_v1(request: Request[Any, Any, Any]) -> Response[bytes]:
    """As ``/api/rerank``, with OpenAI's errors."""
    return await _answer(request)


@post("/v2/rerank", status_code=200, operation_id="createRerankV2", opt=_OPT)
async def rerank_v2(request: Request[Any, Any, Any]) -> Response[bytes]:
    """As ``/api/rerank``, where the second version of Cohere's API has it."""
    return await _answer(request)


@post("/rerank", status_code=200, operation_id="rerankTexts", opt=_OPT)
async def rerank_at_root(request: Request[Any, Any, Any]) -> Response[bytes]:
    """As ``/api/rerank``, where llama-server and TEI have it."""
    return await _answer(request)


async def _only_reranker(request: Request[Any, Any, Any]) -> str:
    """The model of a request that names none, as TEI's do. Raises `ApiError` 400 if there are several, or none."""
    runtime: Runtime = request.app.state.runtime
    names = await runtime.inference.rerankers(caller_of(request.scope))
    if len(names) == 1:
        return names[0]
    there = f"there are several rerankers: {', '.join(names)}" if names else "there is no reranker here"
    raise ApiError(400, f"model is required: {there}", param="model")
