"""Tool calls as Qwen3-Coder, Qwen3.5 and Seed-OSS write them: tags for the function and for each parameter.

``<tool_call><function=name><parameter=key>value</parameter></function></tool_call>``, with line breaks around names and
values; Seed-OSS has ``<seed:tool_call>`` outside. Format: their chat templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource, Step
from corral.adapters.answer_parsers.json_calls import CallKeys, json_calls, known_name, new_call
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.adapters.answer_parsers.tagged_values import ArgumentWriter, tagged_value
from corral.adapters.answer_parsers.typed_values import parameter_schema
from corral.adapters.answer_parsers.xml_parameters import TaggedArguments
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import calls_after, literal
from corral.core.requests.messages import Tool

__all__ = ("Qwen3CoderCalls", "SeedCalls")

_FUNCTION, _PARAMETER = "<function=", "<parameter="
_FUNCTION_END, _PARAMETER_END = "</function>", "</parameter>"


class Qwen3CoderCalls(MarkedCallFormat):
    """Qwen's `ToolCallFormat`. The outermost tags may be missing."""

    marks = ("<tool_call>", _FUNCTION)
    closing: ClassVar[str] = "</tool_call>"
    control = frozenset({marks[0], closing})
    around: ClassVar[str] = "\n"

    def recognises(self, template: TemplateText) -> bool:
        return _FUNCTION in template.text and self.marks[0] in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.accept(self.marks[0])
        yield from source.space()
        if (yield from source.peek()) in ("{", "["):  # as Qwen's other models write it
            yield from json_calls(source, CallKeys(known=tools))
        else:
            yield from source.expect(_FUNCTION)
            while True:
                name = known_name((yield from source.until(">"))[0].strip(), tools)
                yield new_call(name, (yield from _parameters(source, tools[name])), tools)
                yield from source.space()
                if not (yield from source.accept(_FUNCTION)):
                    break
        yield from source.space()
        yield from source.accept(self.closing)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def before(name: str, is_text: bool) -> str:
            return literal(f"{_PARAMETER}{name}>")

        parameters = TaggedArguments(before, _PARAMETER_END, around=self.around)

        def write(tool: Tool) -> str:
            begun = literal(f"{_FUNCTION}{tool.name}>\n")
            return f"{begun} {parameters.arguments(tool)} {literal(_FUNCTION_END)}"

        call = f'call: "\\n" one "\\n" {literal(self.closing)}\n{any_call(tools, write)}\n{parameters.text()}'
        return calls_after(self.marks[0], call, required=required, between="\n")


class SeedCalls(Qwen3CoderCalls):
    """Seed-OSS's `ToolCallFormat`."""

    marks = ("<seed:tool_call>", _FUNCTION)
    closing = "</seed:tool_call>"
    control = frozenset({marks[0], closing})
    around = ""


def _parameters(source: CallSource, tool: Tool) -> Step[dict[str, Any]]:
    """The arguments of a call, up to the end of the function."""
    arguments: dict[str, Any] = {}
    written = ArgumentWriter(source.sink, tool.name)
    while True:
        yield from source.space()
        if (yield from source.expect(_PARAMETER, _FUNCTION_END)) == _FUNCTION_END:
            written.end()
            return arguments
        name = (yield from source.until(">"))[0].strip()
        written.key(name)
        schema = parameter_schema(tool, name)
        arguments[name] = yield from tagged_value(source, _PARAMETER_END, schema, tool, written, in_lines=True)
