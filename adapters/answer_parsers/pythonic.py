"""Tool calls as Llama 3.2, Llama 4, LFM2 and others write them: a list of calls in Python, ``[f(a=1), g(b="x")]``.

Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama4/, which may put ``<|python_start|>`` and
``<|python_end|>`` around it; LFM2 has ``<|tool_call_start|>`` and ``<|tool_call_end|>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource, CutOff, NoCall, is_begun
from corral.adapters.answer_parsers.json_calls import CallKeys, json_list, new_call
from corral.adapters.answer_parsers.loose_grammars import LooseNotation, LooseRules
from corral.adapters.answer_parsers.loose_values import LooseValues
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, calls_after, literal
from corral.core.requests.messages import Tool

__all__ = ("Lfm2Calls", "PythonicCalls", "python_call_rules")

_NAME = re.compile(r"[\w.\-]*")
_SAMPLE = re.compile(r"\[\w+\(\w+=")
_PYTHON = LooseNotation(words=("True", "False", "None"), sign="=", inner_sign=": ", separator=", ", quoted_names=True)


class PythonicCalls(MarkedCallFormat):
    """Llama's `ToolCallFormat`. A list is only taken for calls at the beginning of an answer."""

    marks: ClassVar[tuple[str, ...]] = ("<|python_start|>",)
    leading: ClassVar[tuple[str, ...]] = ("[",)
    closing = "<|python_end|>"

    def recognises(self, template: TemplateText) -> bool:
        return _SAMPLE.search(template.text) is not None and "<|tool_call_start|>" not in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        marked = yield from source.accept(*self.marks)
        yield from source.space()
        yield from source.expect("[")
        certain = bool(marked)
        yield from source.space()
        if certain and (yield from source.peek()) == "{":  # LFM2 may be told to write JSON
            yield from json_list(source, CallKeys(known=tools))
        else:
            yield from _list(source, tools, certain=certain)
        yield from source.space()
        yield from source.accept(self.closing)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        rules = f'calls: "[" {call_list(", ", required=required)} "]"\n{python_call_rules(tools)}'
        if required:
            return f"start: calls\n{rules}"
        return f"start: OTHER | calls TEXT\nOTHER: /(\\s*[^\\s\\[](.|\\n)*)?/\nTEXT: /(.|\\n)*/\n{rules}"


class Lfm2Calls(PythonicCalls):
    """LFM2's `ToolCallFormat`."""

    marks = ("<|tool_call_start|>",)
    leading = ()
    closing = "<|tool_call_end|>"
    control = frozenset({*marks, closing})

    def recognises(self, template: TemplateText) -> bool:
        return "<|tool_call_start|>" in template.text

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        call = f'call: "[" {call_list(", ", required=required)} "]" {literal(self.closing)}'
        return calls_after(self.marks[0], f"{call}\n{python_call_rules(tools)}", required=required, lists=True)


def _list(source: CallSource, tools: Tools, *, certain: bool) -> Calls:
    """Reads the rest of a list after its opening bracket. Only with `certain`, calls are expected in it."""
    while True:
        yield from source.space()
        name = yield from source.run(_NAME)
        if not name or not (yield from source.accept("(")):
            if source.ended and is_begun(name) and any(tool.startswith(name) for tool in tools):
                raise CutOff
            raise ValueError("a call is missing in its list") if certain else NoCall
        arguments = yield from LooseValues(source).pairs(closing=")", sign="=")
        certain = True
        try:
            yield new_call(name, arguments, tools)
        except ValueError as error:
            yield error
        yield from source.space()
        if (yield from source.expect(",", "]")) == "]":
            return


def python_call_rules(tools: Sequence[Tool]) -> str:
    """The rule ``one`` for a call of any of the tools."""
    rules = LooseRules(_PYTHON)
    calls = any_call(tools, lambda tool: f'{literal(f"{tool.name}(")} {rules.arguments(tool)} ")"')
    return f"{calls}\n{rules.text()}"
