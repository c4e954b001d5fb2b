"""``POST /v1/responses``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.answers import AnswerResponse, AnswerSource
from corral.api.http.chat_messages import media_characters
from corral.api.http.errors import ApiError
from corral.api.http.media_decoding import beside_the_loop
from corral.api.http.model_body import MOST_MESSAGES, require_few
from corral.api.http.openai.answering import MODEL_REQUIRED, NOT_FOUND, constraint_of
from corral.api.http.openai.options import think_of, with_defaults
from corral.api.http.openai.responses.background import go_on
from corral.api.http.openai.responses.body import ResponseBody
from corral.api.http.openai.responses.conversation import Conversations
from corral.api.http.openai.responses.items import Item, input_items, messages_of
from corral.api.http.openai.responses.live import LiveResponse
from corral.api.http.openai.responses.replies import ResponseReply
from corral.api.http.openai.responses.run import ResponseForm, ResponseRun
from corral.api.http.openai.responses.tools import ResponseTools
from corral.api.http.openai.responses.writer import ResponseWriter
from corral.api.http.prologue import INFERENCE_STATUSES, InferenceRequest, begin
from corral.api.http.remarks import Remarks
from corral.core.generation.searching import searching_chat
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Message

__all__ = ("create_response",)


@post(
    "/responses",
    status_code=200,
    operation_id="createResponse",
    opt={"body": ResponseBody, "reply": ResponseReply, "events": True, "statuses": INFERENCE_STATUSES},
)
async def create_response(request: Request[Any, Any, Any]) -> ASGIApp:
    """Answers an input, or goes on from an earlier response."""
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
    remarks = Remarks(body.ignored)
    if body.store and not conversations.are_kept:
        remarks = Remarks((*body.ignored, "store"))
    reply = _reply(body, is_kept=body.store is not False and conversations.are_kept)
    writer = ResponseWriter(reply, tools, remarks, stream=body.stream, include=body.include)

    async def keep(ended: ResponseWriter) -> None:
        await conversations.keep(ended, items)

    async def open() -> AnswerSource:
        inference = begun.runtime.inference
        answer: AnswerSource
        with begun:
            if tools.search is not None:
                answer = await searching_chat(inference, begun.runtime.web, call, tools.search)
            else:
                answer = await inference.chat(call)
        return ResponseRun(answer, writer, keep)

    if body.background:
        with begun:
            await begun.models.get(begun.name)
        return await go_on(begun, LiveResponse(writer, open, keep))
    return AnswerResponse(open, ResponseForm(writer), stream=body.stream)


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


def _reply(body: ResponseBody, *, is_kept: bool) -> ResponseReply:
    """The response before anything is known of its answer."""
    return ResponseReply(
        id=f"resp_{secrets.token_hex(24)}",
        created_at=int(time.time()),
        status="queued",
        background=body.background,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata,
        model=body.model,
        parallel_tool_calls=body.parallel_tool_calls,
        previous_response_id=body.previous_response_id,
        reasoning={"effort": body.reasoning.get("effort"), "summary": body.reasoning.get("summary")},
        store=is_kept,
        temperature=1.0 if body.temperature is None else body.temperature,
        text={"format": body.text.get("format") or {"type": "text"}},
        tool_choice="auto" if body.tool_choice is None else body.tool_choice,
        tools=tuple(body.tools),
        top_logprobs=body.top_logprobs or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        truncation=body.truncation,
    )
