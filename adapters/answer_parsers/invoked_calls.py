"""Reads tool calls that are written as XML with an attribute for each name: ``<invoke name="…">``, in a block.

A value is ``<parameter name="…">…</parameter>``, a text as it is, or JSON; an attribute ``string`` may say which.
"""

from __future__ import annotations

from typing import Any

from corral.adapters.answer_parsers.call_formats import Tools
from corral.adapters.answer_parsers.call_source import CallSource, Step
from corral.adapters.answer_parsers.json_calls import known_name, new_call
from corral.adapters.answer_parsers.marked_calls import Calls
from corral.adapters.answer_parsers.tagged_values import ArgumentWriter, tagged_value
from corral.adapters.answer_parsers.typed_values import parameter_schema
from corral.core.requests.messages import Tool

__all__ = ("invoked_calls",)

_TEXT = ' string="true"'
_OTHER = ' string="false"'


def invoked_calls(tools: Tools, source: CallSource, closing: str, *, prefix: str = "") -> Calls:
    """Reads the calls of a block after its opening tag, and `closing`. `prefix` begins the names of all tags."""
    while True:
        yield from source.space()
        yield from source.expect(f'<{prefix}invoke name="')
        name, _ = yield from source.until('">')
        try:
            tool = tools[known_name(name, tools)]
        except ValueError as error:
            yield from source.until(f"</{prefix}invoke>")
            yield error
        else:
            yield new_call(name, (yield from _parameters(source, tool, prefix)), tools)
        yield from source.space()
        if (yield from source.accept(closing)) or not (yield from source.peek()):
            return


def _parameters(source: CallSource, tool: Tool, prefix: str) -> Step[dict[str, Any]]:
    """The arguments of a call, up to its end."""
    arguments: dict[str, Any] = {}
    written = ArgumentWriter(source.sink, tool.name)
    while True:
        yield from source.space()
        end = f"</{prefix}invoke>"
        if (yield from source.expect(f'<{prefix}parameter name="', end)) == end:
            written.end()
            return arguments
        name, _ = yield from source.until('"')
        kind = yield from source.accept(_TEXT, _OTHER)
        yield from source.expect(">")
        written.key(name)
        schema, is_text = parameter_schema(tool, name), kind == _TEXT
        closing = f"</{prefix}parameter>"
        arguments[name] = yield from tagged_value(source, closing, schema, tool, written, is_text=is_text)
