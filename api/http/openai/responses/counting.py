"""``POST /v1/responses/input_tokens``."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, post
from litestar.response.base import ASGIResponse

from corral.api.http.errors import JSON
from corral.api.http.openai.responses.asking import asked_of
from corral.api.http.openai.responses.body import ResponseBody
from corral.api.http.openai.responses.replies import InputTokens
from corral.api.http.prologue import INFERENCE_STATUSES
from corral.api.http.remarks import Remarks
from corral.core.generation.web_search import with_web_search

__all__ = ("count_input_tokens",)


@post(
    "/responses/input_tokens",
    status_code=200,
    operation_id="countInputTokens",
    opt={"body": ResponseBody, "reply": InputTokens, "statuses": INFERENCE_STATUSES},
)
async def count_input_tokens(request: Request[Any, Any, Any]) -> ASGIResponse:
    """How many tokens the prompt of a response has: it is rendered and tokenized, and nothing is computed."""
    asked = await asked_of(request)
    begun, call = asked.begun, asked.call
    if asked.tools.search is not None:
        call = with_web_search(call, asked.tools.search)
    with begun:
        count = await begun.unless_client_leaves(begun.runtime.inference.count_tokens(call))
    headers = {name.decode(): value.decode() for name, value in Remarks(begun.body.ignored).headers()}
    return ASGIResponse(body=msgspec.json.encode(InputTokens(input_tokens=count)), media_type=JSON, headers=headers)
