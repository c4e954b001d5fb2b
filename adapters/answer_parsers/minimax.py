"""Tool calls as MiniMax M2 writes them: ``<minimax:tool_call>``, and ``<invoke name="…">`` with tags for parameters.

Format: its chat template, and MiniMax's guide to its tool calls, https://huggingface.co/MiniMaxAI/MiniMax-M2.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.invoked_calls import invoked_calls
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.adapters.answer_parsers.xml_parameters import TaggedArguments
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after, literal
from corral.core.requests.messages import Tool

__all__ = ("MiniMaxCalls",)

_OPENING, _CLOSING = "<minimax:tool_call>", "</minimax:tool_call>"


class MiniMaxCalls(MarkedCallFormat):
    """A `ToolCallFormat`."""

    marks = (_OPENING,)
    control = frozenset({_OPENING, _CLOSING})

    def recognises(self, template: TemplateText) -> bool:
        return _OPENING in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(_OPENING)
        yield from invoked_calls(tools, source, _CLOSING)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def before(name: str, is_text: bool) -> str:
            return literal(f'<parameter name="{name}">')

        parameters = TaggedArguments(before, "</parameter>")

        def write(tool: Tool) -> str:
            begun = literal(f'<invoke name="{tool.name}">\n')
            return f'{begun} {parameters.arguments(tool)} "</invoke>"'

        calls = call_list("\n", required=required)
        call = f'call: "\\n" {calls} "\\n" {literal(_CLOSING)}\n{any_call(tools, write)}\n{parameters.text()}'
        return calls_after(_OPENING, call, required=required, lists=True)
