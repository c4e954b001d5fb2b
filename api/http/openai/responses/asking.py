"""Reads a request for a response: the conversation that it goes on with, its tools, and the call that it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request

from corral.api.http.chat_messages import media_characters
from corral.api.http.errors import ApiError
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.model_body import MOST_MESSAGES, require_few
from corral.api.http.openai.answering import MODEL_REQUIRED, NOT_FOUND, constraint_of
from corral.api.http.openai.options import think_of, with_defaults
from corral.api.http.openai.responses.body import ResponseBody
from corral.api.http.openai.responses.conversation import Conversations
from corral.api.http.openai.responses.items import Item, input_items, messages_of
from corral.api.http.openai.responses.tools import ResponseTools
from corral.api.http.prologue import InferenceRequest, begin
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Message

__all__ = ("AskedResponse", "asked_of")


class AskedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for. `items` are all of the conversation, with those of earlier responses."""

    begun: InferenceRequest[ResponseBody]
    conversations: Conversations
    items: Sequence[Item]
    tools: ResponseTools
    call: ChatCall


async def asked_of(request: Request[Any, Any, Any]) -> AskedResponse:
    """Raises `ApiError`, `WebDisabled` if the web is to be searched and nothing may be, and what `begin` raises."""
    begun = await begin(request, ResponseBody, no_model=MODEL_REQUIRED, not_found=NOT_FOUND)
    body = begun.body
    conversations = Conversations(request)
    own = input_items(body.input)
    items = [*await conversations.before(body.previous_response_id), *own]
    require_few("input", items, MOST_MESSAGES)
    tools = ResponseTools(body.tools, body.tool_choice, body.max_tool_calls)
    if tools.search is not None:
        begun.runtime.web.require_search()
    call = await _call(begun, tools, items, len(own))
    return AskedResponse(begun=begun, conversations=conversations, items=items, tools=tools, call=call)


async def _call(
    begun: InferenceRequest[ResponseBody], tools: ResponseTools, items: Sequence[Item], own: int
) -> ChatCall:
    body = begun.body
    with begun:
        constraint = await constraint_of(begun, body.text.get("format"), "text.format")
    messages = await beside_the_loop(lambda: messages_of(items, own), media_characters(list(items)))
    if not messages:
        raise ApiError(400, "input is required", param="input")
    if body.instructions:
        messages = (Message(role="system", content=body.instructions), *messages)
    fields = {"temperature": body.temperature, "top_p": body.top_p, "num_predict": body.max_output_tokens}
    return ChatCall(
        model=begun.model,
        caller=begun.caller,
        messages=messages,
        tools=tools.tools,
        tool_choice=tools.choice,
        parallel_tool_calls=body.parallel_tool_calls,
        tool_calls_in_pieces=body.stream,
        options=with_defaults(body.options, fields),
        keep_alive_s=begun.keep_alive_s,
        engine=body.engine or None,
        think=think_of(body.reasoning.get("effort"), param="reasoning.effort"),
        logprobs=body.logprobs,
        constraint=constraint,
        truncate=body.truncation == "auto",
    )
