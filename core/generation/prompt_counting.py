"""Counts the tokens of a chat's prompt exactly, without an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from corral.core.errors import EngineError
from corral.core.generation.answers import Generation
from corral.core.generation.chat_formats import ChatFormats
from corral.core.generation.completing import prompt_of
from corral.core.models.view import ModelView
from corral.core.ports.running import RunningModel
from corral.core.requests.calls import ChatCall
from corral.core.requests.outputs import Finished
from corral.core.requests.requests import ChatRequest, CompletionRequest

__all__ = ("counted_tokens", "prefilled_tokens")


async def counted_tokens(
    view: ModelView, model: RunningModel, request: ChatRequest | CompletionRequest, formats: ChatFormats
) -> int:
    """The length of the whole prompt, which must not have images. It is rendered and tokenized, not computed."""
    whole = msgspec.structs.replace(request, context=msgspec.structs.replace(request.context, truncate=False))
    [ids] = await model.tokenize([await prompt_of(view, model, whole, formats)])
    return len(ids)


async def prefilled_tokens(chat: Callable[[ChatCall], Awaitable[Generation]], call: ChatCall) -> int:
    """The length of a prompt with images. It is computed: only the engine knows how many tokens images take."""
    call = msgspec.structs.replace(call, options={**call.options, "num_predict": 0}, truncate=False)
    async with await chat(call) as generation:
        async for output in generation:
            if isinstance(output, Finished):
                return output.usage.prompt_tokens
    raise EngineError("the prompt was not computed to its end", "see the server's log")
