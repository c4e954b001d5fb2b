"""Tool calls as Command R and R+ of 2024 write them: ``Action:``, and a JSON list in a block of code.

Format: the template ``tool_use`` of their tokenizers, https://huggingface.co/CohereForAI/c4ai-command-r-v01. To answer
without a tool, they call ``directly_answer``, which is no tool of the request and stays text.
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

__all__ = ("CommandRCalls",)

_OPENING, _CLOSING = "Action: ```json", "```"


class CommandRCalls(MarkedCallFormat):
    """A `ToolCallFormat`."""

    marks = (_OPENING, "Action:```json")

    def recognises(self, template: TemplateText) -> bool:
        text = template.text
        if template.kind == "go" or "<|START_ACTION|>" in text:
            return False
        return all(map(text.__contains__, ("<|START_OF_TURN_TOKEN|>", "Action:", '"tool_name"')))

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(*self.marks)
        yield from json_calls(source, CallKeys(known=tools, name="tool_name", arguments="parameters"))
        yield from source.accept(_CLOSING)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def write(tool: Tool) -> str:
            begun = f'{{\n        "tool_name": {literal(tool.name)},\n        "parameters": '
            return f'{literal(begun)} {json_text(tool.parameters)} "\\n    }}"'

        calls = call_list(",\n    ", required=required)
        call = f'call: "\\n[\\n    " {calls} "\\n]\\n" {literal(_CLOSING)}\n{any_call(tools, write)}'
        return calls_after(_OPENING, call, required=required, lists=True)
