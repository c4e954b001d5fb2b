"""Counts the tokens of a chat with images, which only its engine can tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from corral.core.errors import EngineError
from corral.core.generation.answers import Generation
from corral.core.requests.calls import ChatCall
from corral.core.requests.outputs import Finished

__all__ = ("prefilled_tokens",)


async def prefilled_tokens(chat: Callable[[ChatCall], Awaitable[Generation]], call: ChatCall) -> int:
    """The length of a prompt with images. It is computed: only the engine knows how many tokens images take."""
    call = msgspec.structs.replace(call, options={**call.options, "num_predict": 0}, truncate=False)
    async with await chat(call) as generation:
        async for output in generation:
            if isinstance(output, Finished):
                return output.usage.prompt_tokens
    raise EngineError("the prompt was not computed to its end", "see the server's log")
