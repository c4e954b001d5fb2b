"""The chat ports: languages of chat templates, and what they make of a conversation."""

from __future__ import annotations

from typing import Protocol

from corral.core.models.model import ModelMetadata, TemplateText
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.prompts import Prompt, prompt_text
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags
from corral.core.values import Value

__all__ = ("ChatFormat", "ChatLanguage", "RenderedChat")


class RenderedChat(Value, frozen=True, kw_only=True):
    """A conversation as a prompt, and what belongs to the answer.

    `parsers` names the `AnswerParser`s that the answer goes through in turn; if it names none, those are chosen that
    recognise the template. `think` are the tags around thinking, and `call_tag` is the text before a tool call, if the
    template tells. `preserved_tokens` are control tokens that the parsers need to see, besides those tags. `stops` end
    the answer like the request's own stop strings. `ignored` says what of the request has no place in the prompt: the
    answer lists it.
    """

    prompt: Prompt
    parsers: tuple[str, ...] = ()
    think: ThinkTags | None = None
    call_tag: str | None = None
    preserved_tokens: frozenset[str] = frozenset()
    stops: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def opens_thinking(self) -> bool:
        """Whether the prompt ends with the opening tag, so that the answer begins inside the thinking."""
        return self.think is not None and prompt_text(self.prompt[-1:]).rstrip().endswith(self.think.start)


class ChatFormat(Protocol):
    """How one model wants conversations to be written. Called in several threads at once; does no I/O.

    A format with an attribute `interruptible` that is true asks `corral.core.generation.rendering.abandoned` at each
    step, so that its rendering stops at once: short chats are then rendered without a thread.
    """

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        """The prompt up to the start of the assistant's turn; a trailing assistant message is continued.

        A `control` token in any text of messages and tools becomes a separate part with `parse_special` off:
        `corral.core.requests.typed_text.TypedText` takes care of it. A long rendering stops soon after
        `corral.core.generation.rendering.abandoned` returns true.

        Raises `InvalidRequest` with the template's own complaint, or if the template exceeds its limits, and
        `TemplateFailed` if it stumbles over the conversation.
        """
        ...


class ChatLanguage(Protocol):
    """A language that chat templates are written in. Its name is the `kind` of the texts that it compiles."""

    def compile(self, text: TemplateText, metadata: ModelMetadata | None) -> ChatFormat:
        """`metadata` is that of the model's weights, if they have any. Raises `InvalidModelFile`."""
        ...
