"""Tool calls as the models of Hermes and Qwen write them: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``.

Format: https://github.com/NousResearch/Hermes-Function-Calling, and the chat templates of Qwen2.5 and Qwen3.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.answer_parsers.json_calls import call_of, decoded
from corral.adapters.answer_parsers.json_spans import JsonSpan
from corral.adapters.answer_parsers.tagged_calls import TaggedCallParser
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import calls_after, json_text, literal
from corral.core.requests.messages import Tool, ToolCall
from corral.core.requests.requests import ChatRequest

__all__ = ("HermesCalls",)

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"


class HermesCalls:
    """A `ToolCallFormat`."""

    def recognises(self, template: TemplateText) -> bool:
        return _OPENING in template.text and _CLOSING in template.text

    def preserved_tokens(self, rendered: RenderedChat) -> frozenset[str]:
        return frozenset({_OPENING, _CLOSING})

    def open(self, request: ChatRequest, rendered: RenderedChat) -> TaggedCallParser:
        known = frozenset(tool.name for tool in request.tools)
        return TaggedCallParser(_OPENING, _CLOSING, lambda: _Body(known))

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        calls = " | ".join(f"call_{number}" for number in range(len(tools)))
        rules = [f'call: "\\n" ({calls}) "\\n" {literal(_CLOSING)}']
        for number, tool in enumerate(tools):
            begun = literal(f'{{"name": {literal(tool.name)}, "arguments": ')
            rules.append(f'call_{number}: {begun} {json_text(tool.parameters)} "}}"')
        return calls_after(_OPENING, "\n".join(rules), required=required, between="\n")


class _Body:
    """One JSON object, or several in an array. A `CallBody`."""

    def __init__(self, known: frozenset[str]) -> None:
        self._known = known
        self._span = JsonSpan()

    def feed(self, more: str) -> int | None:
        return self._span.feed(more)

    def read(self, text: str) -> Sequence[ToolCall]:
        value = decoded(text)
        if value == []:
            raise ValueError("it is empty")
        return [call_of(one, self._known) for one in (value if isinstance(value, list) else [value])]
