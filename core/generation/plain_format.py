"""The chat format of models without a chat template."""

from __future__ import annotations

from corral.core.ports.chat import RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.requests import ChatRequest
from corral.core.requests.turns import left_out, merged, turns
from corral.core.requests.typed_text import TypedText

__all__ = ("PlainFormat",)


class PlainFormat:
    """A `ChatFormat` that writes questions and answers as they are, one after the other, as `PLAIN_TEMPLATE` does."""

    interruptible = True  # there is nothing to interrupt

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        typed = TypedText(control)
        messages = merged([typed.message(message) for message in request.messages])
        text = "".join([turn.prompt + turn.response for turn in turns(messages)])
        return RenderedChat(prompt=typed.prompt(text), ignored=left_out(request.messages, system=False))
