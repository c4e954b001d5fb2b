"""Tool calls as the models of Hermes and Qwen write them: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``.

Format: https://github.com/NousResearch/Hermes-Function-Calling, and the chat templates of Qwen2.5 and Qwen3.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call, json_object_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import CallKeys, json_calls
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import calls_after, literal
from corral.core.requests.messages import Tool

__all__ = ("HermesCalls",)

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"


class HermesCalls(MarkedCallFormat):
    """A `ToolCallFormat`."""

    marks = (_OPENING,)
    control = frozenset({_OPENING, _CLOSING})

    def recognises(self, template: TemplateText) -> bool:
        others = ("<function=", "<arg_key>")  # Qwen3-Coder and GLM have other things between these tags
        text = template.text
        return (
            template.kind != "go" and _OPENING in text and _CLOSING in text and not any(map(text.__contains__, others))
        )

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(_OPENING)
        yield from json_calls(source, CallKeys(known=tools))
        yield from source.accept(_CLOSING)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        call = f'call: "\\n" one "\\n" {literal(_CLOSING)}\n{any_call(tools, json_object_call)}'
        return calls_after(_OPENING, call, required=required, between="\n")
