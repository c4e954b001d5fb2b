"""Tool calls as DeepSeek V3.2 writes them, in a markup of its own: ``<｜DSML｜function_calls>``, and a tag for each.

``<｜DSML｜invoke name="…">``, with ``<｜DSML｜parameter name="…" string="true">…</｜DSML｜parameter>`` for a text, and
``string="false"`` for JSON. Format: its encoding, https://huggingface.co/deepseek-ai/DeepSeek-V3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.answer_parsers.call_formats import MarkedCallFormat, Tools, any_call
from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.invoked_calls import invoked_calls
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.adapters.answer_parsers.xml_parameters import TaggedArguments
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import call_list, spelled
from corral.core.requests.messages import Tool

__all__ = ("DeepSeekDsmlCalls",)

_TOKEN = "｜DSML｜"
_OPENING, _CLOSING = f"<{_TOKEN}function_calls>", f"</{_TOKEN}function_calls>"


class DeepSeekDsmlCalls(MarkedCallFormat):
    """A `ToolCallFormat`."""

    marks = (_OPENING,)
    control = frozenset({_TOKEN})

    def recognises(self, template: TemplateText) -> bool:
        return _TOKEN in template.text

    def read(self, tools: Tools, source: CallSource) -> Calls:
        yield from source.expect(_OPENING)
        yield from invoked_calls(tools, source, _CLOSING, prefix=_TOKEN)

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        def before(name: str, is_text: bool) -> str:
            return spelled(f'<{_TOKEN}parameter name="{name}" string="{"true" if is_text else "false"}">', _TOKEN)

        parameters = TaggedArguments(before, f"</{_TOKEN}parameter>", token=_TOKEN)

        def write(tool: Tool) -> str:
            begun = spelled(f'<{_TOKEN}invoke name="{tool.name}">\n', _TOKEN)
            return f"{begun} {parameters.arguments(tool)} {spelled(f'</{_TOKEN}invoke>', _TOKEN)}"

        calls = call_list("\n", required=required)
        rules = (
            f'call: "function_calls>\\n" {calls} "\\n" {spelled(_CLOSING, _TOKEN)}\n'
            f"{any_call(tools, write)}\n{parameters.text()}"
        )
        if required:
            return f"start: {spelled(f'<{_TOKEN}', _TOKEN)} call\n{rules}"
        # The bracket before the token is part of the text that the token ends.
        return (
            f"start: TEXT | (begun call)+ TEXT\nbegun[lazy]: BEFORE {spelled(_TOKEN, _TOKEN)}\n"
            f"BEFORE: /(.|\\n)*</\nTEXT: /(.|\\n)*/\n{rules}"
        )
