"""From a conversation to a prompt and back: `PromptedChat` puts a chat template in front of a running model.

Text that people typed must never act as a control token. Templates therefore keep apart what is spelled like one of the
model's control tokens in messages and tools, and nothing else, so that ordinary text is tokenized in one piece with the
template around it. If a model does not say which tokens those are, everything that looks like one is kept apart, and
the model's runner asks its tokenizer which of them really are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from corral.core.errors import PromptTooLong
from corral.core.generation.rendering import RenderedApart
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens, control_tokens
from corral.core.requests.messages import Message, Tool
from corral.core.requests.outputs import Output
from corral.core.requests.prompts import Prompt, TextPart, joined
from corral.core.requests.requests import ChatRequest, CompletionRequest, ContextPolicy

__all__ = (
    "PlainTemplate",
    "PromptedChat",
    "most_tokens",
    "require_room",
    "require_room_for",
)


def most_tokens(info: ModelInfo, num_ctx: int | None) -> int | None:
    """The most tokens that one request may have, None where that is not known."""
    limits = [limit for limit in (num_ctx, info.context_length) if limit is not None]
    return min(limits, default=None)


def require_room(info: ModelInfo, characters: int, most: int | None) -> None:
    """Refuse a text that has more than `most` tokens by its mere size. Raises `PromptTooLong`."""
    if most is not None and info.longest_token_bytes is not None and characters > most * info.longest_token_bytes:
        raise PromptTooLong(
            f"a text of {characters} characters has more than the {most} tokens that fit",
            "shorten it, or raise num_ctx",
        )


def require_room_for(info: ModelInfo, prompt: Prompt, context: ContextPolicy) -> None:
    """As `require_room`, for a prompt that must leave room for an answer."""
    require_room(info, _characters(prompt), _most_of_prompt(info, context))


def _most_of_prompt(info: ModelInfo, context: ContextPolicy) -> int | None:
    most = most_tokens(info, context.num_ctx)
    return None if most is None else max(0, most - 1)


def _characters(prompt: Prompt) -> int:
    return sum(len(part.text) for part in prompt if isinstance(part, TextPart))


class PlainTemplate:
    """For a model without a chat template: the texts alone, a blank line between turns, as base models like them."""

    source = ""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        variables: Mapping[str, Any] | None = None,
        control: ControlTokens = LOOKALIKES,
    ) -> Prompt:
        return joined(control.guarded("\n\n".join(message.content for message in messages if message.content)))


class PromptedChat:
    """Lets a model that only completes text answer a chat. Reads no state of its own: make one per request."""

    def __init__(self, model: RunningModel, template: RenderedApart) -> None:
        self._model = model
        self._template = template

    async def prompt(self, messages: Sequence[Message], context: ContextPolicy, tools: Sequence[Tool] = ()) -> Prompt:
        """Render the messages.

        Raises `InvalidRequest`, and `PromptTooLong` before it renders what is too long by its mere size: a template
        may leave out what was answered before, never what is asked.
        """
        info = self._model.info
        asked = sum(len(message.content) for message in messages if message.role in ("user", "system"))
        require_room(info, asked, _most_of_prompt(info, context))
        control = control_tokens(info.control_tokens)
        prompt = await self._template.render(messages, tools=tools, control=control)
        require_room_for(info, prompt, context)
        return prompt

    async def open(self, request: ChatRequest) -> AsyncGenerator[Output, None]:
        """Render now, so that a template's complaint is raised here; the model runs once the answer is iterated."""
        prompt = await self.prompt(request.messages, request.context, request.tools)
        return self._model.run(
            CompletionRequest(
                caller=request.caller,
                prompt=prompt,
                sampling=request.sampling,
                context=request.context,
                constraint=request.constraint,
                logprobs=request.logprobs,
                return_token_ids=request.return_token_ids,
            )
        )
