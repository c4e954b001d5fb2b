"""``/v1/embeddings``."""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Any

import msgspec
from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.errors import ApiError
from corral.api.http.model_body import MOST_INPUTS, require_few
from corral.api.http.openai.answering import MODEL_REQUIRED, NOT_FOUND, is_ids
from corral.api.http.openai.bodies import OpenAIEmbeddingBody
from corral.api.http.openai.replies import EmbeddingList
from corral.api.http.prologue import INFERENCE_STATUSES, begin
from corral.api.http.remarks import Remarks
from corral.api.http.vector_rows import VectorRows
from corral.core.errors import InvalidEmbedding, PromptTooLong
from corral.core.requests.calls import EmbedCall

__all__ = ("openai_embeddings",)

_encode = msgspec.json.Encoder().encode


@post(
    "/embeddings",
    status_code=200,
    operation_id="createEmbedding",
    opt={"body": OpenAIEmbeddingBody, "reply": EmbeddingList, "statuses": INFERENCE_STATUSES},
)
async def openai_embeddings(request: Request[Any, Any, Any]) -> ASGIApp:
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
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (result.prompt_tokens, result.prompt_tokens)
    return VectorRows(
        result.vectors,
        _packed if encoding == "base64" else _as_numbers,
        head=b'{"object":"list","data":[',
        tail=b'],"model":' + _encode(body.model) + b',"usage":' + usage + b"}",
        headers=remarks.headers(),
    )


def _as_numbers(index: int, row: array[float]) -> bytes:
    return _item(index, _encode(row.tolist()))


def _packed(index: int, row: array[float]) -> bytes:
    """base64 is that of little-endian float32, a quarter of the size of text."""
    if sys.byteorder == "big":
        row.byteswap()
    return _item(index, b'"' + base64.b64encode(row) + b'"')


def _item(index: int, vector: bytes) -> bytes:
    return b'{"object":"embedding","embedding":%b,"index":%d}' % (vector, index)


def _inputs(given: Any) -> tuple[str | tuple[int, ...], ...]:
    """Texts, or lists of token ids. An empty text is an input of its own. Raises `ApiError` 400."""
    if given is None or given == []:
        raise ApiError(400, "invalid input", param="input")
    if isinstance(given, str):
        return (given,)
    if isinstance(given, list):
        if is_ids(given):
            return (tuple(given),)
        require_few("input", given, MOST_INPUTS)
        if all(isinstance(item, str) for item in given):
            return tuple(given)
        if all(map(is_ids, given)):
            return tuple(map(tuple, given))
    raise ApiError(400, "invalid input type", param="input")
