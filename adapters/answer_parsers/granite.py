"""Tool calls as Granite 3 and Phi-4-mini write them: ``<|tool_call|>`` before a JSON list, or before an object.

Formats: the chat templates of granite-3.x-instruct, and the model card of Phi-4-mini-instruct, whose calls end with
``<|/tool_call|>``. Some of its versions write ``functools[…]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call, json_object_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import CallKeys, json_calls
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after, literal
from corral.core.requests.messages import Tool

__all__ = ("GraniteCalls", "Phi4Calls")

_OPENING, _CLOSING, _FUNCTOOLS = "<|tool_call|>", "<|/tool_call|>", "functools["


class GraniteCalls(MarkedCallFormat):
    """Granite's `ToolCallFormat`."""

    marks: ClassVar[tuple[str, ...]] = (_OPENING,)
    control = frozenset({_OPENING})
    around: ClassVar[str] = "{}"
    """The grammar of calls around their list."""

    def recognises(self, template: TemplateText) -> bool:
        return template.kind != "go" and _OPENING in template.text and "<|tool|>" not in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        if not (yield from source.accept(_OPENING)):
            yield from source.accept(_FUNCTOOLS[:-1])
        yield from json_calls(source, CallKeys(known=tools))
        yield from source.accept(_CLOSING)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        calls = self.around.format(f'"[" {call_list(", ", required=required)} "]"')
        call = f"call: {calls}\n{any_call(tools, json_object_call)}"
        return calls_after(_OPENING, call, required=required, lists=True)


class Phi4Calls(GraniteCalls):
    """Phi-4-mini's `ToolCallFormat`."""

    marks = (_OPENING, _FUNCTOOLS)
    control = frozenset({_OPENING, _CLOSING})
    around = f"({{}} | one) {literal(_CLOSING)}"

    def recognises(self, template: TemplateText) -> bool:
        return template.kind != "go" and "<|tool|>" in template.text
