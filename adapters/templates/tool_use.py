"""The chat format of models with two templates: one for conversations with tools, and one for all others."""

from __future__ import annotations

from corral.core.ports.chat import ChatFormat, RenderedChat
from corral.core.requests.control_tokens import LOOKALIKES, ControlTokens
from corral.core.requests.requests import ChatRequest

__all__ = ("ToolUseFormat",)


class ToolUseFormat:
    """A `ChatFormat`. Calls and results in a conversation need the template for tools too: the other may drop them."""

    interruptible = True

    def __init__(self, plain: ChatFormat, with_tools: ChatFormat) -> None:
        """Both must be interruptible."""
        self._plain = plain
        self._with_tools = with_tools

    def render(self, request: ChatRequest, control: ControlTokens = LOOKALIKES) -> RenderedChat:
        has_tools = request.tools or any(one.tool_calls or one.role == "tool" for one in request.messages)
        return (self._with_tools if has_tools else self._plain).render(request, control)
