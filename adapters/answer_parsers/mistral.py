"""Tool calls as Mistral's models write them: ``[TOOL_CALLS]`` before a JSON list, or in newer models before each call.

``[TOOL_CALLS][{"name": …, "arguments": {…}}]``; ``[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}``, often without the id.
Formats: versions 3 and 11 of Mistral's tokenizers, https://github.com/mistralai/mistral-common.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call, json_object_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import CallKeys, json_calls, new_call, read_arguments
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after, json_text, literal
from corral.core.requests.messages import Tool

__all__ = ("MistralCalls", "MistralListCalls")

_CALLS, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[^\[{\s]*")


class MistralCalls(MarkedCallFormat):
    """The newer `ToolCallFormat`. Its parser reads the older one as well."""

    marks = (_CALLS,)
    control = frozenset({_CALLS, _ID, _ARGUMENTS})

    def recognises(self, template: TemplateText) -> bool:
        return _CALLS in template.text and _ARGUMENTS in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(_CALLS)
        yield from source.space()
        name = yield from source.run(_NAME)
        if not name:
            yield from json_calls(source, CallKeys(known=tools))
            return
        call_id = None
        if (yield from source.accept(_ID)):
            call_id = yield from source.run(_NAME)
        yield from source.accept(_ARGUMENTS)
        arguments = yield from read_arguments(source, name, tools, call_id)
        yield new_call(name, arguments, tools, call_id)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def write(tool: Tool) -> str:
            call_id = f"({literal(_ID)} /[a-zA-Z0-9]{{9}}/)?"
            return f"{literal(tool.name)} {call_id} {literal(_ARGUMENTS)} {json_text(tool.parameters)}"

        return calls_after(_CALLS, any_call(tools, write, rule="call"), required=required)


class MistralListCalls(MistralCalls):
    """The older `ToolCallFormat`."""

    control = frozenset({_CALLS})

    def recognises(self, template: TemplateText) -> bool:
        return template.kind != "go" and _CALLS in template.text and _ARGUMENTS not in template.text

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        call = f'call: "[" {call_list(", ", required=required)} "]"\n{any_call(tools, json_object_call)}'
        return calls_after(_CALLS, call, required=required, lists=True)
