"""The chat format of models without a chat template."""

from __future__ import annotations

from corral.core.errors import InvalidRequest
from corral.core.ports.chat import RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.requests import ChatRequest
from corral.core.requests.typed_text import TypedText

__all__ = ("PlainFormat",)


class PlainFormat:
    """A `ChatFormat` that writes the texts alone, with a blank line between turns, as base models like them."""

    interruptible = True  # there is nothing to interrupt

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        """Raises `InvalidRequest` for tool calls: without a template, nothing says how to write them."""
        if any(message.tool_calls for message in request.messages):
            raise InvalidRequest(
                "tool_calls: this model has no chat template, which would define how they are written",
                "omit these messages, or use a model with a chat template",
            )
        typed = TypedText(control)
        contents = [typed.message(message).content for message in request.messages]
        return RenderedChat(prompt=typed.prompt("\n\n".join([content for content in contents if content])))
