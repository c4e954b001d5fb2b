"""The contract of chat templates, as a suite to subclass: give it a fixture `make_template`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from corral.core.errors import InvalidRequest
from corral.core.ports.chat import ChatTemplate
from corral.core.requests.control_tokens import ControlTokens
from corral.core.requests.messages import Message
from corral.core.requests.prompts import Prompt, TextPart, prompt_text

__all__ = ("ChatTemplateContract", "MakeTemplate")

MakeTemplate = Callable[[], ChatTemplate]


def _content_tokens(prompt: Prompt) -> list[str]:
    return [part.text for part in prompt if isinstance(part, TextPart) and not part.parse_special]


class ChatTemplateContract:
    """What every `ChatTemplate` promises.

    A subclass gives the fixture `make_template`, a way to make a template for an ordinary chat model, with roles,
    and sets `control_token` to one that the template itself writes.
    """

    control_token = "<|im_end|>"

    @pytest.fixture
    def make_template(self) -> MakeTemplate:
        raise NotImplementedError("a subclass of ChatTemplateContract gives the fixture make_template")

    def test_every_turn_is_in_the_prompt_in_order(self, make_template: MakeTemplate) -> None:
        """System, user and assistant texts appear once each, in the order of the messages."""
        text = prompt_text(
            make_template().render(
                [
                    Message(role="system", content="alpha"),
                    Message(role="user", content="beta"),
                    Message(role="assistant", content="gamma"),
                    Message(role="user", content="delta"),
                ]
            )
        )
        positions = [text.index(word) for word in ("alpha", "beta", "gamma", "delta")]
        assert positions == sorted(positions)
        assert all(text.count(word) == 1 for word in ("alpha", "beta", "gamma", "delta"))

    def test_ordinary_text_gives_one_part(self, make_template: MakeTemplate) -> None:
        """Text without look-alikes of control tokens is tokenized in one piece with the template around it."""
        prompt = make_template().render([Message(role="user", content="Is 2 < 3? Yes, and\n\n  5 > 4 [1].")])
        assert len(prompt) == 1
        assert isinstance(prompt[0], TextPart)
        assert prompt[0].parse_special

    def test_a_typed_control_token_stays_text(self, make_template: MakeTemplate) -> None:
        """A control token inside content is a part with `parse_special` off; the template's own are not."""
        token = self.control_token
        typed = f"one {token} two {token} three"
        prompt = make_template().render([Message(role="user", content=typed)])
        assert _content_tokens(prompt) == [token, token]
        assert typed in prompt_text(prompt)
        clean = make_template().render([Message(role="user", content="one  two  three")])
        assert prompt_text(prompt).replace(token, "") == prompt_text(clean).replace(token, "")

    @pytest.mark.parametrize("token", ["[|im_end|]", "]~im_end~]", "<|im end|>", "#over#"])
    def test_the_vocabulary_says_what_a_control_token_is(self, make_template: MakeTemplate, token: str) -> None:
        """However the model spells its control tokens, exactly these are kept apart."""
        typed = f"one {token} <b> [b] {token}"
        prompt = make_template().render([Message(role="user", content=typed)], control=ControlTokens((token,)))
        assert _content_tokens(prompt) == [token, token]
        assert typed in prompt_text(prompt)

    @pytest.mark.parametrize("role", ["system", "user", "assistant"])
    def test_no_role_may_write_control_tokens(self, make_template: MakeTemplate, role: str) -> None:
        """The rule holds for every role, and for answers from earlier turns."""
        typed = Message(role=role, content=f"b {self.control_token} c")
        asked = Message(role="user", content="a")
        messages = {"system": [typed, asked], "user": [typed], "assistant": [asked, typed, asked]}[role]
        assert _content_tokens(make_template().render(messages)) == [self.control_token]

    def test_a_trailing_assistant_message_is_continued(self, make_template: MakeTemplate) -> None:
        """The prompt goes as far as it does without that message, then come its words, and nothing after them."""
        asked = [Message(role="user", content="count")]
        template = make_template()
        begun = template.render([*asked, Message(role="assistant", content=f"one, two{self.control_token},")])
        assert prompt_text(begun).startswith(prompt_text(template.render(asked)))
        assert prompt_text(begun).endswith(f"one, two{self.control_token},")
        assert _content_tokens(begun) == [self.control_token]

    def test_the_same_messages_give_the_same_prompt(self, make_template: MakeTemplate) -> None:
        """Rendering keeps nothing from one call to the next, from many threads too."""
        template = make_template()
        conversations = [[Message(role="user", content=f"question {number} <b>")] for number in range(64)]
        alone = [template.render(messages) for messages in conversations]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(template.render, conversations)) == alone

    def test_no_messages_end_in_a_prompt_or_a_clear_error(self, make_template: MakeTemplate) -> None:
        """An empty conversation is answered by a prompt, or by InvalidRequest, never by another exception."""
        with suppress(InvalidRequest):
            make_template().render([])

    def test_the_source_is_text(self, make_template: MakeTemplate) -> None:
        """`show` can print it."""
        assert isinstance(make_template().source, str)
