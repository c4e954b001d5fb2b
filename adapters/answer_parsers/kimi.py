"""Tool calls as Kimi K2 writes them: a section of calls, each an id with the name in it, and the arguments.

``<|tool_calls_section_begin|><|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>
<|tool_calls_section_end|>``. Format: https://huggingface.co/moonshotai/Kimi-K2-Instruct, its guide to tool calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import new_call, read_arguments
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after, json_text, literal
from corral.core.requests.messages import Tool

__all__ = ("KimiCalls",)

_SECTION, _ALL_DONE = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _DONE = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_NAMESPACE = "functions."


class KimiCalls(MarkedCallFormat):
    """A `ToolCallFormat`. The ids are the model's own: its template writes them instead of names."""

    marks = (_SECTION, _CALL)
    control = frozenset({_SECTION, _ALL_DONE, _CALL, _ARGUMENTS, _DONE})

    def recognises(self, template: TemplateText) -> bool:
        marks = (_SECTION, "tool_declare<|im_middle|>")  # early templates do not show how calls are written
        return template.kind != "go" and any(map(template.text.__contains__, marks))

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.accept(_SECTION)
        yield from source.space()
        yield from source.expect(_CALL)
        while True:
            call_id = (yield from source.until(_ARGUMENTS))[0].strip()
            arguments = yield from read_arguments(source, _name(call_id), tools, call_id)
            yield from source.space()
            yield from source.accept(_DONE)
            try:
                yield new_call(_name(call_id), arguments, tools, call_id)
            except ValueError as error:
                yield error
            yield from source.space()
            if (yield from source.accept(_CALL, _ALL_DONE)) != _CALL:
                return

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def write(tool: Tool) -> str:
            named = literal(f"{_NAMESPACE}{tool.name}:")
            return f"{named} /[0-9]{{1,3}}/ {literal(_ARGUMENTS)} {json_text(tool.parameters)} {literal(_DONE)}"

        calls = call_list("", required=required, one=f"{literal(_CALL)} one")
        call = f"call: {calls} {literal(_ALL_DONE)}\n{any_call(tools, write)}"
        return calls_after(_SECTION, call, required=required, lists=True)


def _name(call_id: str) -> str:
    """``functions.name:0`` is a call of ``name``."""
    name, colon, number = call_id.removeprefix(_NAMESPACE).rpartition(":")
    return name if colon and number.isdecimal() else call_id.removeprefix(_NAMESPACE)
