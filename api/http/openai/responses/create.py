"""``POST /v1/responses``."""

from __future__ import annotations

import secrets
import time
from typing import Any

from litestar import Request, post
from litestar.types import ASGIApp

from corral.api.http.answers import AnswerResponse, AnswerSource
from corral.api.http.openai.responses.asking import asked_of
from corral.api.http.openai.responses.background import go_on
from corral.api.http.openai.responses.body import ResponseBody
from corral.api.http.openai.responses.live import LiveResponse
from corral.api.http.openai.responses.replies import ResponseReply
from corral.api.http.openai.responses.run import ResponseForm, ResponseRun
from corral.api.http.openai.responses.writer import ResponseWriter
from corral.api.http.prologue import INFERENCE_STATUSES
from corral.api.http.remarks import Remarks
from corral.core.generation.searching import searching_chat

__all__ = ("create_response",)


@post(
    "/responses",
    status_code=200,
    operation_id="createResponse",
    opt={"body": ResponseBody, "reply": ResponseReply, "events": True, "statuses": INFERENCE_STATUSES},
)
async def create_response(request: Request[Any, Any, Any]) -> ASGIApp:
    """Answers an input, or goes on from an earlier response."""
    asked = await asked_of(request)
    begun, conversations, tools = asked.begun, asked.conversations, asked.tools
    body = begun.body
    remarks = Remarks(body.ignored)
    if body.store and not conversations.are_kept:
        remarks = Remarks((*body.ignored, "store"))
    reply = _reply(body, is_kept=body.store is not False and conversations.are_kept)
    writer = ResponseWriter(reply, tools, remarks, stream=body.stream, include=body.include)

    async def keep(ended: ResponseWriter) -> None:
        await conversations.keep(ended, asked.items)

    async def open() -> AnswerSource:
        inference = begun.runtime.inference
        answer: AnswerSource
        with begun:
            if tools.search is not None:
                answer = await searching_chat(inference, begun.runtime.web, asked.call, tools.search)
            else:
                answer = await inference.chat(asked.call)
        return ResponseRun(answer, writer, keep)

    if body.background:
        with begun:
            await begun.models.get(begun.name)
        return await go_on(request, begun, LiveResponse(writer, open, keep))
    return AnswerResponse(open, ResponseForm(writer), stream=body.stream)


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
