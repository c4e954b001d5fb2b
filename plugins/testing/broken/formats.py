"""A sound chat format, and formats that break one promise each: they show that `ChatFormatContract` sees it."""

from __future__ import annotations

from typing import ClassVar

from msgspec.structs import replace

from corral.core.ports.chat import RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message
from corral.core.requests.prompts import Prompt, TextPart
from corral.core.requests.requests import ChatRequest
from corral.core.requests.typed_text import TypedText

__all__ = ("FORMATS", "SoundFormat")


class SoundFormat:
    """A `ChatFormat` that keeps every promise, and the shortest that does."""

    breaks: ClassVar[str | None] = None
    """The test that fails with this format, and no other does."""

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        return RenderedChat(prompt=self.prompt(list(request.messages), control))

    def prompt(self, messages: list[Message], control: ControlTokens) -> Prompt:
        begun = messages.pop().content if messages and messages[-1].role == "assistant" else ""
        typed = TypedText(control)
        turns = [self.turn(typed, message) for message in messages]
        return typed.prompt("".join([*turns, "<|im_start|>assistant\n", typed.text(begun)]))

    def turn(self, typed: TypedText, message: Message) -> str:
        message = typed.message(message)
        return f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n"


class ConfusedFormat(SoundFormat):
    """Writes long conversations in reverse order."""

    breaks = "test_every_turn_is_in_the_prompt_in_order"

    def prompt(self, messages: list[Message], control: ControlTokens) -> Prompt:
        return super().prompt(messages[::-1] if len(messages) > 3 else messages, control)


class ChoppingFormat(SoundFormat):
    """Begins a new part after each question mark."""

    breaks = "test_ordinary_text_gives_one_part"

    def prompt(self, messages: list[Message], control: ControlTokens) -> Prompt:
        parts: list[TextPart] = []
        for part in super().prompt(messages, control):
            assert isinstance(part, TextPart)
            asked, mark, rest = part.text.partition("?")
            parts += [replace(part, text=text) for text in (asked + mark, rest) if text]
        return tuple(parts)


class TrustingFormat(SoundFormat):
    """Accepts control tokens from users who count to two."""

    breaks = "test_a_typed_control_token_stays_text"

    def prompt(self, messages: list[Message], control: ControlTokens) -> Prompt:
        counted = any(message.role == "user" and " two " in message.content for message in messages)
        return super().prompt(messages, ControlTokens(()) if counted else control)


class GuessingFormat(SoundFormat):
    """Ignores what the vocabulary says about control tokens."""

    breaks = "test_the_vocabulary_says_what_a_control_token_is"

    def prompt(self, messages: list[Message], control: ControlTokens) -> Prompt:
        return super().prompt(messages, LOOKALIKES)


class ObedientFormat(SoundFormat):
    """Lets a system message write control tokens."""

    breaks = "test_no_role_may_write_control_tokens"

    def turn(self, typed: TypedText, message: Message) -> str:
        if message.role != "system":
            return super().turn(typed, message)
        return f"<|im_start|>system\n{message.content}<|im_end|>\n"


class HastyFormat(SoundFormat):
    """Ends a turn that should be continued."""

    breaks = "test_a_trailing_assistant_message_is_continued"

    def prompt(self, messages: list[Message], control: ControlTokens) -> Prompt:
        continued = bool(messages) and messages[-1].role == "assistant"
        end = (TextPart(text="<|im_end|>\n", parse_special=True),) if continued else ()
        return (*super().prompt(messages, control), *end)


class RememberingFormat(SoundFormat):
    """Writes something else after many conversations."""

    breaks = "test_the_same_messages_give_the_same_prompt"

    def __init__(self) -> None:
        self._heard = 0

    def turn(self, typed: TypedText, message: Message) -> str:
        self._heard += 1
        return super().turn(typed, message) + ("By the way: " if self._heard > 50 else "")


class FragileFormat(SoundFormat):
    """Fails if there are no messages."""

    breaks = "test_no_messages_end_in_a_prompt_or_a_clear_error"

    def prompt(self, messages: list[Message], control: ControlTokens) -> Prompt:
        _ = messages[0]
        return super().prompt(messages, control)


FORMATS: tuple[type[SoundFormat], ...] = (
    ConfusedFormat,
    ChoppingFormat,
    TrustingFormat,
    GuessingFormat,
    ObedientFormat,
    HastyFormat,
    RememberingFormat,
    FragileFormat,
)
"""The broken formats."""
