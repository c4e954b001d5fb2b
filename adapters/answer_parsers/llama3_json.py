"""Tool calls as Llama 3.1 and later write them: ``{"name": …, "parameters": {…}}``, sometimes after ``<|python_tag|>``.

Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/#json-based-tool-calling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call, json_object_call
from corral.adapters.answer_parsers.call_source import CallSource, CutOff, NoCall
from corral.adapters.answer_parsers.json_calls import CallKeys, json_calls
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list
from corral.core.requests.messages import Tool

__all__ = ("Llama3JsonCalls",)

_TAG = "<|python_tag|>"
_FIRST_KEYS = ('"name"', '"type"', '"function"')


class Llama3JsonCalls(MarkedCallFormat):
    """A `ToolCallFormat`. Without the tag, an object is only taken for a call at the beginning of an answer."""

    marks = (_TAG,)
    leading = ("{",)
    control = frozenset({_TAG})

    def recognises(self, template: TemplateText) -> bool:
        text = template.text
        headers = "<|start_header_id|>" in text or "<|header_start|>" in text
        return template.kind != "go" and headers and '"parameters"' in text and "<tool_call>" not in text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        if not (yield from source.accept(_TAG)):
            yield from source.expect("{")
            yield from source.space()
            key = yield from source.accept(*_FIRST_KEYS)
            if not key:
                raise CutOff if source.broken_off(*_FIRST_KEYS) else NoCall
            keys = CallKeys(known=tools)
            value = yield from keys.read(source, "{" + key)
            if not isinstance(value, Mapping) or value.keys().isdisjoint(("parameters", "arguments", "function")):
                raise NoCall
            yield keys.call(value)
            yield from source.space()
            if not (yield from source.accept(";", ",")):
                return
        yield from json_calls(source, CallKeys(known=tools))

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        calls = any_call(tools, lambda tool: json_object_call(tool, arguments="parameters"))
        rules = f'calls: tag? {call_list("; ", required=required)}\ntag[lazy]: "{_TAG}"\n{calls}'
        if required:
            return f"start: calls\n{rules}"
        # Other answers begin with something else, and do not have the tag.
        return (
            "start: OTHER? | calls AFTER? | (begun calls)+ AFTER?\n"
            f'begun[lazy]: OTHER "{_TAG}"\n'
            "OTHER: /\\s*[^\\s{](.|\\n)*/\nAFTER: /\\s*[^\\s{,;](.|\\n)*/\n" + rules
        )
