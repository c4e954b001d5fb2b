"""Tool calls as DeepSeek's models write them, between ``<｜tool▁calls▁begin｜>`` and ``<｜tool▁calls▁end｜>``.

V3 and R1: ``<｜tool▁call▁begin｜>function<｜tool▁sep｜>name``, and the arguments in a block of ``json``;
V3.1: ``<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}``; both with ``<｜tool▁call▁end｜>``. Format: their chat templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import new_call, read_arguments
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after, json_text, literal
from corral.core.requests.messages import Tool

__all__ = ("DeepSeekCalls", "DeepSeekV31Calls")

_CALLS, _ALL_DONE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _DONE, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_BLOCK = "```json"
_NAME = re.compile(r"[^\s`{]*")


class DeepSeekCalls(MarkedCallFormat):
    """The `ToolCallFormat` of V3 and R1. Its parser reads that of V3.1 as well."""

    marks = (_CALLS, _CALL)
    control = frozenset({_CALLS, _ALL_DONE, _CALL, _DONE, _SEPARATOR})
    between: ClassVar[str] = "\n"

    def recognises(self, template: TemplateText) -> bool:
        return template.kind != "go" and _SEPARATOR in template.text and _BLOCK in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.accept(_CALLS)
        yield from source.space()
        yield from source.expect(_CALL)
        while True:
            name, _ = yield from source.until(_SEPARATOR)
            yield from source.space()
            if (yield from source.peek()) != "{":
                name = yield from source.run(_NAME)
                yield from source.space()
                yield from source.accept(_BLOCK)
            name = name.strip()
            arguments = yield from read_arguments(source, name, tools)
            problem: ValueError | None = None
            try:
                yield new_call(name, arguments, tools)
            except ValueError as error:
                problem = error
            yield from source.space()
            yield from source.accept("```")
            yield from source.accept(_DONE)
            if problem is not None:
                yield problem
            yield from source.space()
            if (yield from source.accept(_CALL, _ALL_DONE)) != _CALL:
                return

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        calls = call_list(self.between, required=required, one=f"{literal(_CALL)} one")
        call = f"call: {calls} {literal(_ALL_DONE)}\n{any_call(tools, self._written)}"
        return calls_after(_CALLS, call, required=required, lists=True)

    def _written(self, tool: Tool) -> str:
        named = literal(f"{tool.name}\n{_BLOCK}\n")
        begun = f'"function" {literal(_SEPARATOR)} {named}'
        return f'{begun} {json_text(tool.parameters)} "\\n```" {literal(_DONE)}'


class DeepSeekV31Calls(DeepSeekCalls):
    """The `ToolCallFormat` of V3.1."""

    between = ""

    def recognises(self, template: TemplateText) -> bool:
        return template.kind != "go" and _SEPARATOR in template.text and _BLOCK not in template.text

    def _written(self, tool: Tool) -> str:
        return f"{literal(tool.name)} {literal(_SEPARATOR)} {json_text(tool.parameters)} {literal(_DONE)}"
