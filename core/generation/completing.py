"""Answers chats and prompts with models that complete text: renders, runs, parses, and leaves out what does not fit."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from corral.core.generation.chat_formats import ChatFormats
from corral.core.generation.early_length_check import require_room_for
from corral.core.generation.fitting import FittingChat, fitted
from corral.core.generation.parser_choice import ParserChoice
from corral.core.generation.parsing import parsed
from corral.core.generation.prompting import completion_of
from corral.core.generation.refusals import unlimited_thinking
from corral.core.generation.tool_calling import held_calls
from corral.core.models.view import ModelView
from corral.core.ports.chat import RenderedChat
from corral.core.ports.running import RunningModel
from corral.core.requests.outputs import Output
from corral.core.requests.prompts import Prompt
from corral.core.requests.requests import ChatRequest, CompletionRequest

__all__ = ("completed", "prompt_of")


async def completed(
    view: ModelView,
    model: RunningModel,
    request: ChatRequest | CompletionRequest,
    formats: ChatFormats,
    parsers: ParserChoice,
) -> AsyncGenerator[Output, None]:
    """The outputs of the answer. Renders now, so that a template's complaint is raised here."""
    name = view.record.name.short
    if isinstance(request, CompletionRequest):
        if not request.context.truncate:
            require_room_for(model.info, request.prompt, request.context)
        return model.run(request)
    opened = await formats.open(view, request.template)
    chat = FittingChat(request, model, opened.format)

    def run(rendered: RenderedChat, *, truncate: bool) -> AsyncGenerator[Output, None]:
        chosen = parsers.choose(request, rendered, opened.recognised, name)
        held = held_calls(request, chosen, able="constraints" in model.info.features)
        completion = completion_of(held.request, chosen.rendered, truncate=truncate)
        ignored = (*rendered.ignored, *held.ignored, *unlimited_thinking(request, completion))
        outputs = model.run(completion)
        if not request.tools and not chosen.reasoning and not ignored:
            return outputs
        readers = chosen.open(held.request)
        return parsed(outputs, readers, name, held.warnings, ignored, calls_in_pieces=request.tool_calls_in_pieces)

    whole = await chat.whole()
    if not (chat.can_shrink or chat.dropped):
        return run(whole, truncate=request.context.truncate)
    first = run(whole, truncate=not chat.can_shrink)
    return fitted(chat, first, lambda shorter: run(shorter, truncate=True))


async def prompt_of(
    view: ModelView, model: RunningModel, request: ChatRequest | CompletionRequest, formats: ChatFormats
) -> Prompt:
    """The prompt that `completed` would run, without running it."""
    if isinstance(request, CompletionRequest):
        return request.prompt
    chat = FittingChat(request, model, (await formats.open(view, request.template)).format)
    return completion_of(request, await chat.fitting(), truncate=False).prompt
