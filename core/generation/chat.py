"""From a conversation to a prompt and back: `PromptedChat` puts a chat template in front of a running model.

Text that people typed must never act as a control token. Templates therefore keep apart what is spelled like one of the
model's control tokens in messages and tools, and nothing else, so that ordinary text is tokenized in one piece with the
template around it. If a model does not say which tokens those are, everything that looks like one is kept apart, and
its tokenizer is asked which of them really are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

from corral.core.errors import PromptTooLong
from corral.core.generation.rendering import RenderedApart
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens, control_tokens
from corral.core.requests.messages import Message, Tool
from corral.core.requests.outputs import Output
from corral.core.requests.prompts import Prompt, TextPart, TokensPart
from corral.core.requests.requests import ChatRequest, CompletionRequest, ContextPolicy

__all__ = (
    "PlainTemplate",
    "PromptedChat",
    "completion_prompt",
    "joined",
    "most_tokens",
    "require_room",
    "settle",
    "tokenized",
)

_LONG_TEXT = 8192  # characters; a tokenizer takes about a millisecond for so many


def joined(parts: Iterable[TextPart]) -> tuple[TextPart, ...]:
    """The same prompt with neighbours of one kind made one part, and empty parts gone."""
    runs: list[tuple[bool, list[str]]] = []
    for part in parts:
        if not part.text:
            continue
        if runs and runs[-1][0] == part.parse_special:
            runs[-1][1].append(part.text)
        else:
            runs.append((part.parse_special, [part.text]))
    return tuple(TextPart(text="".join(texts), parse_special=special) for special, texts in runs)


async def settle(model: RunningModel, prompt: Prompt) -> Prompt:
    """Join guarded parts that are no control token of this model to the text around them.

    Without feature ``tokenize`` nobody can tell, and all of them stay apart: safe, and a little different in tokens.
    """
    suspects = list({part.text: None for part in prompt if isinstance(part, TextPart) and not part.parse_special})
    if not suspects or "tokenize" not in model.info.features:
        return prompt
    readings: list[Prompt] = []
    for text in suspects:
        readings += [(TextPart(text=text, parse_special=True),), (TextPart(text=text),)]
    ids = await model.tokenize(readings)
    harmless = {text for text, special, plain in zip(suspects, ids[::2], ids[1::2], strict=True) if special == plain}
    return joined(
        TextPart(text=part.text, parse_special=part.parse_special or part.text in harmless)
        for part in prompt
        if isinstance(part, TextPart)
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


async def tokenized(
    model: RunningModel, prompts: Sequence[Prompt], *, most: int | None = None, cut: bool = False
) -> tuple[Prompt, ...]:
    """Long prompts as token ids, short ones as they are; `most` and `cut` as in `RunningModel.tokenize`.

    Ids are made beside the engine's steps. An engine given a long text would tokenize it between two steps, and every
    other answer would wait.
    """
    if not cut:
        for prompt in prompts:
            require_room(model.info, _characters(prompt), most)
    if sum(map(_characters, prompts)) < _LONG_TEXT or "tokenize" not in model.info.features:
        return tuple(prompts)
    return tuple((TokensPart(ids=ids),) for ids in await model.tokenize(prompts, most=most, cut=cut))


async def completion_prompt(model: RunningModel, prompt: Prompt, context: ContextPolicy) -> Prompt:
    """The prompt as `tokenized` gives it. Raises `PromptTooLong` where it leaves no room for an answer."""
    [found] = await tokenized(model, [prompt], most=_most_of_prompt(model.info, context))
    return found


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
        most = _most_of_prompt(self._model.info, context)
        asked = sum(len(message.content) for message in messages if message.role in ("user", "system"))
        require_room(self._model.info, asked, most)
        control = control_tokens(self._model.info.control_tokens)
        prompt = await self._template.render(messages, tools=tools, control=control)
        require_room(self._model.info, _characters(prompt), most)
        return prompt if control.known else await settle(self._model, prompt)

    async def open(self, request: ChatRequest) -> AsyncGenerator[Output, None]:
        """Render now, so that a template's complaint is raised here; the model runs once the answer is iterated."""
        rendered = await self.prompt(request.messages, request.context, request.tools)
        prompt = await completion_prompt(self._model, rendered, request.context)
        return self._model.run(
            CompletionRequest(
                caller=request.caller,
                prompt=prompt,
                sampling=request.sampling,
                context=request.context,
                constraint=request.constraint,
                logprobs=request.logprobs,
                return_token_ids=request.return_token_ids,
                engine_options=request.engine_options,
            )
        )
