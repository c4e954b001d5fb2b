"""Tool calls as Gemma 3 writes them: calls in Python, one a line, in a block of ``tool_code``.

Format: Google's guide to function calling with Gemma 3, where a call may be inside ``print(…)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import new_call
from corral.adapters.answer_parsers.loose_values import LooseValues
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.adapters.answer_parsers.pythonic import python_call_rules
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after
from corral.core.requests.messages import Tool

__all__ = ("ToolCodeCalls",)

_OPENING, _CLOSING = "```tool_code", "```"
_NAME = re.compile(r"[\w.\-]*")


class ToolCodeCalls(MarkedCallFormat):
    """A `ToolCallFormat`."""

    marks = (_OPENING,)

    def recognises(self, template: TemplateText) -> bool:
        return _OPENING in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(_OPENING)
        while True:
            yield from source.space()
            printed = yield from source.accept("print(")
            name = yield from source.run(_NAME)
            yield from source.expect("(")
            arguments = yield from LooseValues(source).pairs(closing=")", sign="=")
            if printed:
                yield from source.expect(")")
            try:
                yield new_call(name, arguments, tools)
            except ValueError as error:
                yield error
            yield from source.space()
            if (yield from source.accept(_CLOSING)) or not (yield from source.peek()):
                return

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        calls = call_list("\n", required=required)
        call = f'call: "\\n" {calls} "\\n" "{_CLOSING}"\n{python_call_rules(tools)}'
        return calls_after(_OPENING, call, required=required, lists=True)
