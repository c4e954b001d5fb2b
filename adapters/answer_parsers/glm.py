"""Tool calls as GLM-4.5 and later write them: the tool's name, and a pair of tags for each argument.

``<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>``, with line breaks between them before
GLM-4.7. Format: their chat templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource, CutOff
from corral.adapters.answer_parsers.json_calls import known_name, new_call
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.adapters.answer_parsers.tagged_values import ArgumentWriter, tagged_value
from corral.adapters.answer_parsers.typed_values import parameter_schema
from corral.adapters.answer_parsers.xml_parameters import TaggedArguments
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import calls_after, literal
from corral.core.requests.messages import Tool

__all__ = ("GlmCalls",)

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_NAME = re.compile(r"[^\s<{]*")


class GlmCalls(MarkedCallFormat):
    """A `ToolCallFormat`."""

    marks = (_OPENING,)
    control = frozenset({_OPENING, _CLOSING, _KEY, _KEY_END, _VALUE, _VALUE_END})

    def recognises(self, template: TemplateText) -> bool:
        return _KEY in template.text and _OPENING in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(_OPENING)
        yield from source.space()
        name = yield from source.run(_NAME)
        if not (yield from source.peek()):
            raise CutOff
        tool = tools[known_name(name, tools)]
        written = ArgumentWriter(source.sink, tool.name)
        arguments: dict[str, Any] = {}
        while True:
            yield from source.space()
            if (yield from source.expect(_KEY, _CLOSING)) == _CLOSING:
                written.end()
                break
            key = (yield from source.until(_KEY_END))[0].strip()
            yield from source.space()
            yield from source.expect(_VALUE)
            written.key(key)
            schema = parameter_schema(tool, key)
            arguments[key] = yield from tagged_value(source, _VALUE_END, schema, tool, written)
        yield new_call(tool.name, arguments, tools)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def before(name: str, is_text: bool) -> str:
            return " ".join(map(literal, (_KEY, name, _KEY_END, "\n", _VALUE)))

        pairs = TaggedArguments(before, _VALUE_END)
        calls = any_call(tools, lambda tool: f'{literal(tool.name)} "\\n" {pairs.arguments(tool)}')
        call = f"call: one {literal(_CLOSING)}\n{calls}\n{pairs.text()}"
        return calls_after(_OPENING, call, required=required, between="\n")
