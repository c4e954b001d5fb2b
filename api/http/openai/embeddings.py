"""``/v1/embeddings``."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from litestar import Request, Response, post

from corral.api.http.errors import JSON, ApiError
from corral.api.http.model_body import MOST_INPUTS, require_few
from corral.api.http.openai.answering import MODEL_REQUIRED, NOT_FOUND
from corral.api.http.openai.bodies import OpenAIEmbeddingBody
from corral.api.http.openai.replies import EmbeddingList
from corral.api.http.prologue import INFERENCE_STATUSES, begin
from corral.api.http.remarks import Remarks
from corral.core.errors import InvalidEmbedding, PromptTooLong
from corral.core.requests.calls import EmbedCall
from corral.core.requests.outputs import Vectors
from corral.core.requests.vectors import rows

__all__ = ("openai_embeddings",)

_encode = msgspec.json.Encoder().encode


@post(
    "/embeddings",
    status_code=200,
    operation_id="createEmbedding",
    opt={"body": OpenAIEmbeddingBody, "reply": EmbeddingList, "statuses": INFERENCE_STATUSES},
)
async def openai_embeddings(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Computes one vector of length 1 per input, in order; inputs are texts or token ids."""
    begun = await begin(request, OpenAIEmbeddingBody, no_model=MODEL_REQUIRED, not_found=NOT_FOUND)
    body = begun.body
    encoding = body.encoding_format.lower() or "float"
    if encoding not in ("float", "base64"):
        text = f"Invalid value for 'encoding_format' = {body.encoding_format}. Supported values: ['float', 'base64']."
        raise ApiError(400, text, param="encoding_format")
    call = EmbedCall(
        model=begun.model,
        caller=begun.caller,
        inputs=_inputs(body.input),
        dimensions=body.dimensions if body.dimensions > 0 else None,
        options=body.options,
        keep_alive_s=begun.keep_alive_s,
        engine=body.engine or None,
    )
    try:
        with begun:
            result = await begun.unless_client_leaves(begun.runtime.inference.embed(call))
    except (PromptTooLong, InvalidEmbedding) as error:
        raise ApiError(400, error.message, code=error.code) from error
    begun.log.prompt_tokens = result.prompt_tokens
    remarks = Remarks((*body.unknown, *result.ignored_options))
    written = _written(body.model, result.vectors, result.prompt_tokens, as_base64=encoding == "base64")
    headers = {name.decode(): value.decode() for name, value in remarks.headers()}
    return Response(written, media_type=JSON, headers=headers)


def _written(model: str, vectors: Vectors, prompt_tokens: int, *, as_base64: bool) -> bytes:
    """base64 is that of little-endian float32, a quarter of the size of text."""
    data: list[bytes] = []
    size = 4 * vectors.dimensions
    if as_base64:
        packed = (vectors.float32[at : at + size] for at in range(0, len(vectors.float32), size or 1))
        values = [b'"' + base64.b64encode(row) + b'"' for row in packed]
    else:
        values = [_encode(row.tolist()) for row in rows(vectors)]
    for index, value in enumerate(values):
        data.append(b'{"object":"embedding","embedding":%b,"index":%d}' % (value, index))
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (prompt_tokens, prompt_tokens)
    parts = (b'{"object":"list","data":[', b",".join(data), b'],"model":', _encode(model), b',"usage":', usage, b"}")
    return b"".join(parts)


def _inputs(given: Any) -> tuple[str | tuple[int, ...], ...]:
    """Texts, or lists of token ids. An empty text is an input of its own. Raises `ApiError` 400."""
    if given is None or given == []:
        raise ApiError(400, "invalid input", param="input")
    if isinstance(given, str):
        return (given,)
    if isinstance(given, list):
        if all(_is_id(item) for item in given):
            return (tuple(given),)
        require_few("input", given, MOST_INPUTS)
        if all(isinstance(item, str) for item in given):
            return tuple(given)
        if all(isinstance(item, list) and item and all(map(_is_id, item)) for item in given):
            return tuple(map(tuple, given))
    raise ApiError(400, "invalid input type", param="input")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
