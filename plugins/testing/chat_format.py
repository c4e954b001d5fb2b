"""The contract of chat formats, as a suite to subclass: give it a fixture `make_format`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from corral.core.errors import InvalidRequest
from corral.core.ports.chat import ChatFormat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.messages import Message
from corral.core.requests.prompts import Prompt, TextPart, prompt_text
from corral.core.requests.requests import ChatRequest

__all__ = ("ChatFormatContract", "MakeFormat")

MakeFormat = Callable[[], ChatFormat]


def _render(chat_format: ChatFormat, messages: Sequence[Message], control: ControlTokens = LOOKALIKES) -> Prompt:
    return chat_format.render(ChatRequest(messages=tuple(messages)), control).prompt


def _content_tokens(prompt: Prompt) -> list[str]:
    return [part.text for part in prompt if isinstance(part, TextPart) and not part.parse_special]


class ChatFormatContract:
    """What every `ChatFormat` promises.

    A subclass gives the fixture `make_format`, a way to make a format for an ordinary chat model, with roles,
    and sets `control_token` to one that the template itself writes.
    """

    control_token = "<|im_end|>"

    @pytest.fixture
    def make_format(self) -> MakeFormat:
        raise NotImplementedError("a subclass of ChatFormatContract gives the fixture make_format")

    def test_every_turn_is_in_the_prompt_in_order(self, make_format: MakeFormat) -> None:
        """System, user and assistant texts appear once each, in the order of the messages."""
        text = prompt_text(
            _render(
                make_format(),
                [
                    Message(role="system", content="alpha"),
                    Message(role="user", content="beta"),
                    Message(role="assistant", content="gamma"),
                    Message(role="user", content="delta"),
                ],
            )
        )
        positions = [text.index(word) for word in ("alpha", "beta", "gamma", "delta")]
        assert positions == sorted(positions)
        assert all(text.count(word) == 1 for word in ("alpha", "beta", "gamma", "delta"))

    def test_ordinary_text_gives_one_part(self, make_format: MakeFormat) -> None:
        """Text without look-alikes of control tokens is tokenized in one piece with the template around it."""
        prompt = _render(make_format(), [Message(role="user", content="Is 2 < 3? Yes, and\n\n  5 > 4 [1].")])
        assert len(prompt) == 1
        assert isinstance(prompt[0], TextPart)
        assert prompt[0].parse_special

    def test_a_typed_control_token_stays_text(self, make_format: MakeFormat) -> None:
        """A control token inside content is a part with `parse_special` off; the template's own are not."""
        token = self.control_token
        typed = f"one {token} two {token} three"
        prompt = _render(make_format(), [Message(role="user", content=typed)])
        assert _content_tokens(prompt) == [token, token]
        assert typed in prompt_text(prompt)
        clean = _render(make_format(), [Message(role="user", content="one  two  three")])
        assert prompt_text(prompt).replace(token, "") == prompt_text(clean).replace(token, "")

    @pytest.mark.parametrize("token", ["[|im_end|]", "]~im_end~]", "<|im end|>", "#over#"])
    def test_the_vocabulary_says_what_a_control_token_is(self, make_format: MakeFormat, token: str) -> None:
        """Exactly the model's control tokens are kept apart, however they are spelled."""
        typed = f"one {token} <b> [b] {token}"
        prompt = _render(make_format(), [Message(role="user", content=typed)], ControlTokens((token,)))
        assert _content_tokens(prompt) == [token, token]
        assert typed in prompt_text(prompt)

    @pytest.mark.parametrize("role", ["system", "user", "assistant"])
    def test_no_role_may_write_control_tokens(self, make_format: MakeFormat, role: str) -> None:
        """The rule holds for every role, and for answers from earlier turns."""
        typed = Message(role=role, content=f"b {self.control_token} c")
        asked = Message(role="user", content="a")
        messages = {"system": [typed, asked], "user": [typed], "assistant": [asked, typed, asked]}[role]
        assert _content_tokens(_render(make_format(), messages)) == [self.control_token]

    def test_a_trailing_assistant_message_is_continued(self, make_format: MakeFormat) -> None:
        """The prompt is the one without that message, followed by its text and nothing else."""
        asked = [Message(role="user", content="count")]
        chat_format = make_format()
        begun = _render(chat_format, [*asked, Message(role="assistant", content=f"one, two{self.control_token},")])
        assert prompt_text(begun).startswith(prompt_text(_render(chat_format, asked)))
        assert prompt_text(begun).endswith(f"one, two{self.control_token},")
        assert _content_tokens(begun) == [self.control_token]

    def test_the_same_messages_give_the_same_prompt(self, make_format: MakeFormat) -> None:
        """Rendering keeps no state between calls, even in many threads."""
        chat_format = make_format()
        conversations = [[Message(role="user", content=f"question {number} <b>")] for number in range(64)]
        alone = [_render(chat_format, messages) for messages in conversations]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(partial(_render, chat_format), conversations)) == alone

    def test_no_messages_end_in_a_prompt_or_a_clear_error(self, make_format: MakeFormat) -> None:
        """An empty conversation gives a prompt or InvalidRequest, never another exception."""
        with suppress(InvalidRequest):
            _render(make_format(), [])
