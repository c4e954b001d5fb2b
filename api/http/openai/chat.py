"""``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from corral.api.http.answers import AnswerResponse
from corral.api.http.chat_messages import media_characters, read_messages
from corral.api.http.chat_tools import chosen_tools, read_tools
from corral.api.http.errors import JSON, ApiError
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.openai.answering import (
    MODEL_REQUIRED,
    MOST_TOP_LOGPROBS,
    NOT_FOUND,
    constraint_of,
    opened,
)
from corral.api.http.openai.bodies import ChatCompletionBody
from corral.api.http.openai.chat_form import ChatForm
from corral.api.http.openai.known_fields import ignored_fields
from corral.api.http.openai.options import options_of, think_of
from corral.api.http.openai.replies import ChatCompletion
from corral.api.http.prologue import INFERENCE_STATUSES, begin
from corral.api.http.remarks import Remarks
from corral.core.requests.calls import ChatCall

__all__ = ("chat_completions",)


@post(
    "/chat/completions",
    status_code=200,
    operation_id="createChatCompletion",
    opt={"body": ChatCompletionBody, "reply": ChatCompletion, "events": True, "statuses": INFERENCE_STATUSES},
)
async def chat_completions(request: Request[Any, Any, Any]) -> ASGIApp:
    """Answers a conversation, with one choice or several."""
    begun = await begin(request, ChatCompletionBody, check=_check, no_model=MODEL_REQUIRED, not_found=NOT_FOUND)
    body = begun.body
    with begun:
        constraint = await constraint_of(begun, body.response_format, "response_format")
    tools, choice = chosen_tools(read_tools(body.tools), body.tool_choice)
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    call = ChatCall(
        model=begun.model,
        caller=begun.caller,
        messages=await beside_the_loop(lambda: read_messages(body.messages), media_characters(list(body.messages))),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls,
        tool_calls_in_pieces=body.stream,
        options=options_of(body, max_tokens),
        keep_alive_s=begun.keep_alive_s,
        engine=body.engine or None,
        think=think_of(body.reasoning_effort, body.reasoning.get("effort")),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraint=constraint,
    )
    if body.debug_render_only:
        with begun:
            _, text = await begun.unless_client_leaves(begun.runtime.inference.render(call))
        return ASGIResponse(body=msgspec.json.encode({"_debug_info": {"rendered_template": text}}), media_type=JSON)
    remarks = Remarks(ignored_fields(body))
    form = ChatForm(body.model, remarks, choices=body.n, include_usage=body.stream_options.get("include_usage") is True)
    return AnswerResponse(lambda: opened(begun, [call], body.n), form, stream=body.stream)


def _check(body: ChatCompletionBody) -> None:
    if not body.messages:
        raise ApiError(400, "[] is too short - 'messages'", param="messages")
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= MOST_TOP_LOGPROBS:
        raise ApiError(400, f"top_logprobs must be between 0 and {MOST_TOP_LOGPROBS}", param="top_logprobs")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
