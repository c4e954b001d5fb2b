"""Tool calls in OpenAI's harmony format: messages to ``functions.name``, in the channel ``commentary``.

``<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>``, or with the receiver before the
channel. Format: https://github.com/openai/harmony. `HarmonyThinking` reads all other messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.json_calls import new_call, read_arguments
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, json_text, literal
from corral.core.requests.messages import Tool

__all__ = ("HarmonyCalls",)

_START, _CHANNEL, _CONSTRAIN, _MESSAGE, _CALL = (
    "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>",
)  # fmt: skip
_END, _ROLE = "<|end|>", "assistant"
_TO = "functions."
_NOT_IN_NAMES = re.compile(r"\W")
_RECEIVER = re.compile(r"[^\s<]*")


class HarmonyCalls(MarkedCallFormat):
    """A `ToolCallFormat`. Models may write an underscore for what is not allowed in the name of a function."""

    marks = (
        *(f"{start}{_CHANNEL}{name} to=" for start in ("", f"{_START}{_ROLE}") for name in ("commentary", "analysis")),
        *(f"{start}to={_TO}" for start in ("", f"{_START}{_ROLE} ")),
    )
    control = frozenset({_START, _CHANNEL, _CONSTRAIN, _MESSAGE, _CALL})

    def recognises(self, template: TemplateText) -> bool:
        return all(mark in template.text for mark in ("<|start|>", _CHANNEL, _MESSAGE, "<|end|>"))

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.accept(f"{_START}{_ROLE}")
        yield from source.accept(f"{_CHANNEL}commentary", f"{_CHANNEL}analysis")
        yield from source.space()
        yield from source.expect("to=")
        receiver = yield from source.run(_RECEIVER)
        yield from source.until(_MESSAGE)
        name = receiver.removeprefix(_TO)
        if name not in tools:
            name = next((one for one in tools if _NOT_IN_NAMES.sub("_", one) == name), name)
        arguments = yield from read_arguments(source, name, tools)
        yield new_call(name, arguments, tools)
        yield from source.space()
        yield from source.accept(_CALL)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def write(tool: Tool) -> str:
            name = _NOT_IN_NAMES.sub("_", tool.name)
            begun = f'{literal(f"commentary to={_TO}{name} ")} {literal(_CONSTRAIN)} "json" {literal(_MESSAGE)}'
            return f"{begun} {json_text(tool.parameters)} {literal(_CALL)}"

        calls = any_call(tools, write)
        if required:
            message = f'({literal(_START)} "{_ROLE}")? {literal(_CHANNEL)} one'
            return f"start: {call_list('', required=True, one=f'({message})')}\n{calls}"
        # Between messages, there are marks besides the one that begins a call.
        others = f'("analysis" | "commentary" | "final") {literal(_MESSAGE)}'
        ends = "".join(f"end_{number}[lazy]: TEXT {literal(mark)}\n" for number, mark in enumerate((_START, _END)))
        return (
            f"start: TEXT | (begun (one | {others}) | end_0 | end_1)+ TEXT\n"
            f"begun[lazy]: TEXT {literal(_CHANNEL)}\n{ends}TEXT: /(.|\\n)*/\n{calls}"
        )
