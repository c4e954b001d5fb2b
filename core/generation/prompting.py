"""Turns a chat into a completion, for models that only complete text.

Text that people typed must never act as a control token. Chat formats therefore keep apart what is spelled like one of
the model's control tokens in messages and tools, and nothing else, so that ordinary text is tokenized in one piece with
the template around it. If a model does not say which tokens those are, everything that looks like one is kept apart,
and the model's runner asks its tokenizer which of them really are.
"""

from __future__ import annotations

import itertools

import msgspec

from corral.core.errors import Unsupported
from corral.core.generation.early_length_check import most_tokens_of_prompt, require_room, require_room_for
from corral.core.generation.rendering import FormatInThreads
from corral.core.ports.chat import RenderedChat
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.requests.prompts import Prompt, TextPart, TokensPart, has_media
from corral.core.requests.requests import ChatRequest, CompletionRequest, Thinking
from corral.core.values import fields_in_common

__all__ = ("completion_of", "rendered_chat", "shown_text")


async def rendered_chat(request: ChatRequest, info: ModelInfo, chat_format: FormatInThreads) -> RenderedChat:
    """The chat, rendered for a model with this `info`.

    Raises `InvalidRequest`, and `PromptTooLong` without rendering if nothing may be cut and the size alone shows that
    the text is too long: a template may leave out earlier answers, but never what the user asks. Raises `Unsupported`
    if the format drops images.
    """
    cut = request.context.truncate
    if not cut:
        asked = sum([len(message.content) for message in request.messages if message.role in ("user", "system")])
        require_room(info, asked, most_tokens_of_prompt(info, request.context))
    rendered = await chat_format.render(request, await chat_format.control(info.control_tokens))
    if any(message.images for message in request.messages) and not has_media(rendered.prompt):
        raise Unsupported("images: the chat format of this model has no place for them", "omit them")
    if not cut:
        require_room_for(info, rendered.prompt, request.context)
    return rendered


def completion_of(request: ChatRequest, rendered: RenderedChat, *, truncate: bool) -> CompletionRequest:
    """The completion whose answer is the chat's, still unparsed. `truncate`: tokens may be cut from its prompt."""
    sampling = request.sampling
    if rendered.stops:
        sampling = msgspec.structs.replace(sampling, stop=(*sampling.stop, *rendered.stops))
    context = msgspec.structs.replace(request.context, truncate=truncate)
    passed_on = fields_in_common(request, CompletionRequest) | {"sampling": sampling, "context": context}
    prompt = rendered.prompt
    if request.earlier_ids:
        prompt = (TokensPart(ids=request.earlier_ids), *prompt)
    return CompletionRequest(
        prompt=prompt,
        preserved_tokens=rendered.preserved_tokens,
        thinking=_thinking(request, rendered),
        **passed_on,
    )


async def shown_text(prompt: Prompt, model: RunningModel) -> str:
    """A prompt for people to read, with images as ``[img-0]``, and so on, in their order."""
    shown: list[str] = []
    images = itertools.count()
    for part in prompt:
        if isinstance(part, TextPart):
            shown.append(part.text)
        elif isinstance(part, TokensPart):
            shown.append(await model.detokenize(part.ids))
        else:
            shown.append(f"[img-{next(images)}]")
    return "".join(shown)


def _thinking(request: ChatRequest, rendered: RenderedChat) -> Thinking | None:
    """None if nothing depends on where the thinking ends, so that ordinary answers need no mask."""
    tags = rendered.think
    if tags is None or request.think is False or (request.constraint is None and request.thinking_budget is None):
        return None
    start = "" if rendered.opens_thinking else tags.start
    end = tags.end if request.constraint is None else tags.end + tags.bridge
    return Thinking(start=start, end=end, max_tokens=request.thinking_budget)
