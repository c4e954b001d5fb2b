"""From a conversation to a prompt and back: `PromptedChat` puts a chat template in front of a running model.

Text that people typed must never act as a control token. Templates therefore keep apart what is spelled like one of the
model's control tokens in messages and tools, and nothing else, so that ordinary text is tokenized in one piece with the
template around it. If a model does not say which tokens those are, everything that looks like one is kept apart, and
its tokenizer is asked which of them really are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from corral.core.control_tokens import LOOKALIKES, ControlTokens, control_tokens
from corral.core.messages import Message, Tool
from corral.core.outputs import ChatDelta, Delta, Output
from corral.core.ports.inference import RunningModel
from corral.core.rendering import RenderedApart
from corral.core.requests import ChatRequest, CompletionRequest, Prompt, TextPart, TokensPart

__all__ = (
    "PlainTemplate",
    "PromptedChat",
    "joined",
    "prompt_text",
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


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt, for people to read."""
    return "".join(part.text for part in prompt if isinstance(part, TextPart))


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


async def tokenized(model: RunningModel, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Long prompts as token ids, short ones as they are.

    Ids are made beside the engine's steps. An engine given a long text would tokenize it between two steps, and every
    other answer would wait.
    """
    length = sum(len(part.text) for prompt in prompts for part in prompt if isinstance(part, TextPart))
    if length < _LONG_TEXT or "tokenize" not in model.info.features:
        return tuple(prompts)
    return tuple((TokensPart(ids=ids),) for ids in await model.tokenize(prompts))


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

    async def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """Render the messages. Raises `InvalidRequest`."""
        control = control_tokens(self._model.info.control_tokens)
        prompt = await self._template.render(messages, tools=tools, control=control)
        return prompt if control.known else await settle(self._model, prompt)

    async def open(self, request: ChatRequest) -> AsyncGenerator[Output, None]:
        """Render now, so that a template's complaint is raised here; the model runs once the answer is iterated."""
        [prompt] = await tokenized(self._model, [await self.prompt(request.messages, request.tools)])
        return self._answer(
            CompletionRequest(
                prompt=prompt,
                sampling=request.sampling,
                context=request.context,
                constraint=request.constraint,
                logprobs=request.logprobs,
                return_token_ids=request.return_token_ids,
                engine_options=request.engine_options,
            )
        )

    async def _answer(self, request: CompletionRequest) -> AsyncGenerator[Output, None]:
        async with aclosing(self._model.run(request)) as outputs:
            async for output in outputs:
                yield _chat_delta(output) if isinstance(output, Delta) else output


def _chat_delta(delta: Delta) -> ChatDelta:
    return ChatDelta(content=delta.text, token_count=delta.token_count, logprobs=delta.logprobs)
