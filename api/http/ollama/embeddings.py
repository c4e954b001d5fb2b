"""``/api/embed`` and its older form ``/api/embeddings``."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, post
from litestar.types import ASGIApp

from corral.api.http.errors import JSON, ApiError
from corral.api.http.model_body import ModelBody
from corral.api.http.ollama.bodies import EmbedBody, EmbeddingBody
from corral.api.http.ollama.replies import EmbeddingReply, EmbedReply
from corral.api.http.prologue import INFERENCE_STATUSES, InferenceRequest, begin
from corral.api.http.vector_rows import VectorRows
from corral.core.errors import InvalidEmbedding, PromptTooLong
from corral.core.requests.calls import EmbedCall, EmbedResult
from corral.core.requests.vectors import rows

__all__ = ("embed", "embeddings")

BodyT = TypeVar("BodyT", bound=ModelBody)

_NOT_FOUND = 'model "{}" not found, try pulling it first'

_encode = msgspec.json.Encoder().encode


@post(
    "/api/embed",
    status_code=200,
    operation_id="embed",
    opt={"scope": "infer", "body": EmbedBody, "reply": EmbedReply, "statuses": INFERENCE_STATUSES},
)
async def embed(request: Request[Any, Any, Any]) -> ASGIApp:
    """Computes one vector of length 1 per input, in order. Without input, only loads the model."""
    begun = await begin(
        request,
        EmbedBody,
        no_model=ApiError(404, "model '{}' not found"),
        not_found=_NOT_FOUND,
    )
    body = begun.body
    inputs = _inputs(body.input)
    call = EmbedCall(
        model=begun.model,
        caller=begun.caller,
        inputs=inputs,
        truncate=body.truncate,
        dimensions=body.dimensions if body.dimensions > 0 else None,
        options=body.options,
        keep_alive_s=begun.keep_alive_s,
    )
    result = await _run(begun, call, failed=400)
    rest: dict[str, Any] = {}
    if inputs:
        rest["total_duration"] = result.total_ns
        rest["load_duration"] = result.load_ns
        rest["prompt_eval_count"] = result.prompt_tokens
    if result.ignored_options:
        rest["ignored_options"] = result.ignored_options
    return VectorRows(
        result.vectors,
        lambda _, row: _encode(row.tolist()),
        head=b'{"model":' + _encode(body.model) + b',"embeddings":[',
        tail=(b"]," + _encode(rest)[1:]) if rest else b"]}",
    )


@post(
    "/api/embeddings",
    status_code=200,
    operation_id="embeddings",
    opt={"scope": "infer", "body": EmbeddingBody, "reply": EmbeddingReply, "statuses": INFERENCE_STATUSES},
)
async def embeddings(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Computes the vector of one text, not normalised. Without a prompt, only loads the model."""
    begun = await begin(request, EmbeddingBody, no_model=ApiError(400, "model is required"), not_found=_NOT_FOUND)
    body = begun.body
    call = EmbedCall(
        model=begun.model,
        caller=begun.caller,
        inputs=(body.prompt,) if body.prompt else (),
        normalise=False,
        options=body.options,
        keep_alive_s=begun.keep_alive_s,
    )
    result = await _run(begun, call, failed=500)
    vectors = [_encode(row.tolist()) for row in rows(result.vectors)]
    return Response(b'{"embedding":' + (vectors[0] if vectors else b"[]") + b"}", media_type=JSON)


async def _run(begun: InferenceRequest[BodyT], call: EmbedCall, *, failed: int) -> EmbedResult:
    """`failed` is the status for inputs that are too long and for vectors that are not numbers."""
    try:
        with begun:
            result = await begun.unless_client_leaves(begun.runtime.inference.embed(call))
    except (PromptTooLong, InvalidEmbedding) as error:
        raise ApiError(failed, error.message) from error
    begun.log.prompt_tokens = result.prompt_tokens
    return result


def _inputs(given: Any) -> tuple[str, ...]:
    """The texts of an input. None, an empty string and an empty list all mean that the model is only loaded."""
    if isinstance(given, str):
        return (given,) if given else ()
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ApiError(400, "invalid input type")
    return tuple(given)
