"""``/api/embed`` and its older form ``/api/embeddings``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response, post
from litestar.types import ASGIApp, Receive, Scope, Send

from corral.api.http.body import read_json
from corral.api.http.disconnect import CancelOnDisconnect
from corral.api.http.edge import caller_of
from corral.api.http.errors import JSON, ApiError
from corral.api.http.ollama.naming import read_name, without_selector
from corral.api.http.ollama.replies import EmbeddingReply, EmbedReply
from corral.api.http.ollama.requests import EmbedBody, EmbeddingBody
from corral.api.http.request_log import request_log
from corral.core.errors import InvalidEmbedding, ModelNotFound, PromptTooLong
from corral.core.go.durations import parse_keep_alive_s
from corral.core.requests.calls import EmbedCall, EmbedResult
from corral.core.requests.outputs import Vectors
from corral.core.requests.vectors import rows
from corral.core.runtime import Runtime

__all__ = ("embed", "embeddings")

_TOO_LONG = "the input length exceeds the context length"
_ROWS_PER_TURN = 32

_encode = msgspec.json.Encoder().encode


@post("/api/embed", status_code=200, opt={"body": EmbedBody, "reply": EmbedReply})
async def embed(request: Request[Any, Any, Any]) -> ASGIApp:
    """One vector of length 1 per input, in order. Without input the model is loaded."""
    log = request_log(request.scope)
    body = await read_json(request, EmbedBody)
    log.model = body.model
    keep_alive_s = parse_keep_alive_s(body.keep_alive)
    inputs = _inputs(body.input)
    if not body.model.strip():
        raise ApiError(404, "model '' not found")
    call = EmbedCall(
        model=without_selector(body.model),
        caller=caller_of(request.scope),
        inputs=inputs,
        truncate=body.truncate,
        dimensions=body.dimensions if body.dimensions > 0 else None,
        options=body.options,
        keep_alive_s=keep_alive_s,
    )
    try:
        result = await _run(request, call, body.model)
    except InvalidEmbedding as error:
        raise ApiError(400, error.message) from error
    rest: dict[str, Any] = {}
    if inputs:
        rest["total_duration"] = result.total_ns
        rest["load_duration"] = result.load_ns
        rest["prompt_eval_count"] = result.prompt_tokens
    if result.ignored_options:
        rest["ignored_options"] = result.ignored_options
    return _Embeddings(body.model, result.vectors, rest)


@post("/api/embeddings", status_code=200, opt={"body": EmbeddingBody, "reply": EmbeddingReply})
async def embeddings(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The vector of one text, as the model gives it. Without a prompt the model is loaded."""
    log = request_log(request.scope)
    body = await read_json(request, EmbeddingBody)
    log.model = body.model
    keep_alive_s = parse_keep_alive_s(body.keep_alive)
    if not body.model.strip():
        raise ApiError(400, "model is required")
    call = EmbedCall(
        model=without_selector(body.model),
        caller=caller_of(request.scope),
        inputs=(body.prompt,) if body.prompt else (),
        normalise=False,
        options=body.options,
        keep_alive_s=keep_alive_s,
    )
    result = await _run(request, call, body.model)
    vectors = [_encode(row.tolist()) for row in rows(result.vectors)]
    return Response(b'{"embedding":' + (vectors[0] if vectors else b"[]") + b"}", media_type=JSON)


async def _run(request: Request[Any, Any, Any], call: EmbedCall, typed: str) -> EmbedResult:
    read_name(call.model)
    runtime: Runtime = request.app.state.runtime
    try:
        async with CancelOnDisconnect(request.receive):
            result = await runtime.inference.embed(call)
    except ModelNotFound as error:
        raise ApiError(404, f'model "{typed}" not found, try pulling it first') from error
    except PromptTooLong as error:
        raise ApiError(400, _TOO_LONG) from error
    request_log(request.scope).prompt_tokens = result.prompt_tokens
    return result


def _inputs(given: Any) -> tuple[str, ...]:
    """A text or a list of texts. No text, an empty one, and an empty list all mean: only load."""
    if given is None or given == "":
        return ()
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ApiError(400, "invalid input type")
    return tuple(given)


class _Embeddings:
    """The answer of ``/api/embed``, sent some rows at a time: as text, vectors take five times their memory."""

    def __init__(self, model: str, vectors: Vectors, rest: Mapping[str, Any]) -> None:
        self._head = b'{"model":' + _encode(model) + b',"embeddings":['
        self._vectors = vectors
        self._tail = (b"]," + _encode(rest)[1:]) if rest else b"]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = [self._head]
        is_started = False
        for number, row in enumerate(rows(self._vectors), 1):
            parts += [b"," if number > 1 else b"", _encode(row.tolist())]
            if number % _ROWS_PER_TURN == 0:
                if not is_started:
                    is_started = True
                    await _start(send)
                await send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
                await asyncio.sleep(0)
                parts = []
        body = b"".join([*parts, self._tail])
        if not is_started:
            await _start(send, (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _start(send: Send, *headers: tuple[bytes, bytes]) -> None:
    headers = ((b"content-type", JSON.encode()), *headers)
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
