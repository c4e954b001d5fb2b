"""Tool calls as Command R7B and Command A write them: ``<|START_ACTION|>`` and a JSON list, up to ``<|END_ACTION|>``.

Format: Cohere's guide to prompting Command R7B; each call is ``{"tool_call_id": …, "tool_name": …, "parameters": …}``.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import CallKeys, json_calls
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after, json_text, literal
from corral.core.requests.messages import Tool

__all__ = ("CohereCalls",)

_OPENING, _CLOSING = "<|START_ACTION|>", "<|END_ACTION|>"


class CohereCalls(MarkedCallFormat):
    """A `ToolCallFormat`."""

    marks = (_OPENING,)
    control = frozenset({_OPENING, _CLOSING})

    def recognises(self, template: TemplateText) -> bool:
        return template.kind != "go" and _OPENING in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(_OPENING)
        yield from json_calls(
            source, CallKeys(known=tools, name="tool_name", id="tool_call_id", arguments="parameters")
        )
        yield from source.accept(_CLOSING)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def write(tool: Tool) -> str:
            begun = literal('{"tool_call_id": "'), literal(f'", "tool_name": {literal(tool.name)}, "parameters": ')
            return f'{begun[0]} /[0-9]{{1,3}}/ {begun[1]} {json_text(tool.parameters)} "}}"'

        calls = call_list(",\n    ", required=required)
        call = f'call: "[\\n    " {calls} "\\n]" {literal(_CLOSING)}\n{any_call(tools, write)}'
        return calls_after(_OPENING, call, required=required, lists=True)
