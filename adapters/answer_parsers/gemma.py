"""Tool calls as FunctionGemma and Gemma 4 write them: ``call:name{key:value,…}`` between two marks.

Texts are between two marks as well, and nothing in them is escaped; names have no quotes. Formats: Google's model card
of FunctionGemma, and the chat template of Gemma 4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import new_call
from corral.adapters.answer_parsers.loose_grammars import LooseNotation, LooseRules
from corral.adapters.answer_parsers.loose_values import LooseValues
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import calls_after, literal
from corral.core.requests.messages import Tool

__all__ = ("FunctionGemmaCalls", "Gemma4Calls")

_NAME = re.compile(r"[^{\s]*")


class Gemma4Calls(MarkedCallFormat):
    """Gemma 4's `ToolCallFormat`."""

    marks = ("<|tool_call>",)
    closing: ClassVar[str] = "<tool_call|>"
    quote: ClassVar[str] = '<|"|>'
    control = frozenset({*marks, closing, quote})

    def recognises(self, template: TemplateText) -> bool:
        return self.marks[0] in template.text and self.closing in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(*self.marks)
        yield from source.expect("call:")
        name = yield from source.run(_NAME)
        yield from source.expect("{")
        yield new_call(name, (yield from LooseValues(source, raw=self.quote).pairs()), tools)
        yield from source.space()
        yield from source.accept(self.closing)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        rules = LooseRules(
            LooseNotation(
                words=("true", "false", "null"),
                sign=":",
                inner_sign=":",
                separator=",",
                quoted_names=False,
                raw=self.quote,
            )
        )
        calls = any_call(tools, lambda tool: f'{literal(f"call:{tool.name}{{")} {rules.arguments(tool)} "}}"')
        call = f"call: one {literal(self.closing)}\n{calls}\n{rules.text()}"
        return calls_after(self.marks[0], call, required=required)


class FunctionGemmaCalls(Gemma4Calls):
    """FunctionGemma's `ToolCallFormat`."""

    marks = ("<start_function_call>",)
    closing = "<end_function_call>"
    quote = "<escape>"
    control = frozenset({*marks, closing, quote})
