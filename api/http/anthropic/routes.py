"""``/v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request, post
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from corral.api.http.answers import AnswerResponse, AnswerSource
from corral.api.http.anthropic.answers import MessageWriter
from corral.api.http.anthropic.blocks import media_characters, read_messages, read_system
from corral.api.http.anthropic.bodies import CountTokensBody, MessagesBody
from corral.api.http.anthropic.calls import (
    choice_of,
    format_of,
    is_parallel,
    options_of,
    read_tools,
    think_of,
)
from corral.api.http.anthropic.known_fields import ignored_fields
from corral.api.http.anthropic.replies import MessageReply, TokenCount
from corral.api.http.anthropic.web_tools import read_web_tools
from corral.api.http.errors import JSON, ApiError
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.prologue import INFERENCE_STATUSES, InferenceRequest, begin
from corral.api.http.remarks import Remarks
from corral.core.generation.searching import searching_chat
from corral.core.requests.calls import ChatCall

__all__ = ("count_tokens", "create_message")

BodyT = TypeVar("BodyT", bound=CountTokensBody)

_NO_MODEL = ApiError(400, "model is required")
_NOT_FOUND = "model '{}' not found"


@post(
    "/",
    status_code=200,
    operation_id="createMessage",
    opt={"body": MessagesBody, "reply": MessageReply, "events": True, "statuses": INFERENCE_STATUSES},
)
async def create_message(request: Request[Any, Any, Any]) -> ASGIApp:
    """Answers a conversation, as Anthropic's API does."""
    begun = await begin(request, MessagesBody, no_model=_NO_MODEL, not_found=_NOT_FOUND)
    body = begun.body
    call, ignored = await _call(begun)
    call = msgspec.structs.replace(call, tool_calls_in_pieces=body.stream)
    used, inference, web = read_web_tools(body.tools), begun.runtime.inference, begun.runtime.web
    writer = MessageWriter(body.model, body.stop_sequences, body.max_tokens, Remarks(ignored), uses_web=bool(used))

    async def open_generation() -> AnswerSource:
        with begun:
            if used:
                return await searching_chat(inference, web, call, used.search, used.fetch)
            return await inference.chat(call)

    return AnswerResponse(open_generation, writer, stream=body.stream)


@post(
    "/count_tokens",
    status_code=200,
    operation_id="countMessageTokens",
    opt={"body": CountTokensBody, "reply": TokenCount, "statuses": INFERENCE_STATUSES},
)
async def count_tokens(request: Request[Any, Any, Any]) -> ASGIResponse:
    """How many tokens the prompt of a message has: it is rendered and tokenized, and nothing is computed."""
    begun = await begin(request, CountTokensBody, no_model=_NO_MODEL, not_found=_NOT_FOUND)
    call, ignored = await _call(begun)
    call = read_web_tools(begun.body.tools).offered(call)
    with begun:
        count = await begun.unless_client_leaves(begun.runtime.inference.count_tokens(call))
    headers = {name.decode(): value.decode() for name, value in Remarks(ignored).headers()}
    return ASGIResponse(body=msgspec.json.encode(TokenCount(input_tokens=count)), media_type=JSON, headers=headers)


async def _call(begun: InferenceRequest[BodyT]) -> tuple[ChatCall, tuple[str, ...]]:
    """What is asked for, and the fields that have no effect. Raises `ApiError` and what the catalog raises."""
    body = begun.body
    body.require_messages()
    ignored = ignored_fields(body)
    think = think_of(body)
    options = options_of(body)
    if think:
        with begun:
            view = await begun.models.view(begun.name)
        if not view.record.remote and "thinking" not in view.capabilities:
            # Clients ask for it without knowing the model.
            think = None
            options.pop("thinking_budget", None)
            ignored += ("thinking",) if body.thinking else ("output_config.effort",)
    characters = media_characters([message.get("content") for message in body.messages])
    messages = await beside_the_loop(lambda: read_messages(body.messages), characters)
    call = ChatCall(
        model=begun.model,
        caller=begun.caller,
        messages=(*read_system(body.system), *messages),
        tools=read_tools(body.tools),
        tool_choice=choice_of(body),
        parallel_tool_calls=is_parallel(body),
        think=think,
        constraint=format_of(body),
        options=options,
        keep_alive_s=begun.keep_alive_s,
        engine=body.engine or None,
    )
    return call, ignored
