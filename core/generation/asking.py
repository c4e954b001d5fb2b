"""Everything about a call for text that is decided before its model is loaded."""

from __future__ import annotations

from typing import Literal

import msgspec

from corral.core.generation.assembling import chat_request, generate_request, of_choice
from corral.core.generation.chat_formats import ChatFormats
from corral.core.generation.opening import ModelOpener
from corral.core.generation.refusals import refuse_unserved
from corral.core.generation.tool_calling import settled_tools
from corral.core.models.view import ModelView
from corral.core.requests.calls import ChatCall, GenerateCall
from corral.core.requests.options import ResolvedOptions
from corral.core.requests.requests import ChatRequest, CompletionRequest

__all__ = ("FoundCall", "look_up")


class FoundCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call for text, and what it becomes once its model has been looked up."""

    view: ModelView
    options: ResolvedOptions
    call: GenerateCall | ChatCall
    request: ChatRequest | CompletionRequest
    task: Literal["generate", "chat"]


async def look_up(models: ModelOpener, formats: ChatFormats, call: GenerateCall | ChatCall) -> FoundCall:
    """The model of a call, and the request that is made of it. Raises `Unsupported` for what the model cannot do, and
    what `ModelOpener.begun` raises.
    """
    task: Literal["generate", "chat"] = "generate" if isinstance(call, GenerateCall) else "chat"
    view, options, call = await models.begun(call, task)
    options = of_choice(options, call.choice)
    await refuse_unserved(view.record, view.capabilities, call)
    request: ChatRequest | CompletionRequest
    if isinstance(call, GenerateCall):
        metadata = view.metadata
        if call.suffix and not (call.raw or call.insert) and (call.template or formats.fill_in(view)):
            metadata = None  # a template that has a place for a suffix goes before the model's own tokens for it
        request = generate_request(view.record, call, options, metadata)
    else:
        call = settled_tools(call, view)
        request = chat_request(view.record, call, options)
    return FoundCall(view=view, options=options, call=call, request=request, task=task)
