"""Makes the calls of chats and prompts from the library's keyword arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from corral.api.library.arguments import checked, checked_count, checked_format
from corral.api.library.options import AnswerOptions, ChatOptions
from corral.api.library.tool_rounds import ToolRounds
from corral.api.library.tools import to_tools
from corral.core.generation.answers import Generation
from corral.core.generation.service import InferenceService
from corral.core.requests.answer_format import read_format
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Message
from corral.core.requests.think_values import check_think
from corral.core.requests.tool_choice import read_tool_choice

__all__ = ("answering", "chat_starter")

_MAX_ROUNDS = 8


def answering(how: AnswerOptions, stream: bool) -> dict[str, Any]:
    """The fields that only requests for text have."""
    checked("stream", stream, bool)
    checked("system", how.get("system"), str, None)
    return {
        "logprobs": checked_count("logprobs", how.get("logprobs"), least=0),
        "think": check_think(how.get("think")),
        "constraint": read_format(checked_format(how.get("format"))),
        "truncate": checked("truncate", how.get("truncate", True), bool),
        "shift": checked("shift", how.get("shift"), bool, None),
    }


def chat_starter(
    messages: tuple[Message, ...], how: ChatOptions, fields: Mapping[str, Any]
) -> Callable[[InferenceService], Awaitable[Generation | ToolRounds]]:
    """What starts the chat, with `fields` of its call, once there is a runtime. Raises `InvalidRequest`."""
    tools, functions = to_tools(how.get("tools"))
    call = ChatCall(
        messages=messages,
        tools=tools,
        tool_choice=read_tool_choice(how.get("tool_choice")),
        **fields,
    )
    runs_tools = checked("run_tools", how.get("run_tools", False), bool)
    max_rounds = checked_count("max_rounds", how.get("max_rounds"), least=1) or _MAX_ROUNDS

    async def start(inference: InferenceService) -> Generation | ToolRounds:
        if not (runs_tools and functions):
            return await inference.chat(call)
        rounds = ToolRounds(inference.chat, call, functions, max_rounds)
        await rounds.begin()
        return rounds

    return start
