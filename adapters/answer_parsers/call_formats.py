"""The base of formats of tool calls whose parsers are described by their marks and a reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.marked_calls import Calls, MarkedCallParser
from corral.core.ports.chat import RenderedChat
from corral.core.requests.call_grammars import json_text, literal
from corral.core.requests.messages import Tool
from corral.core.requests.requests import ChatRequest

__all__ = ("MarkedCallFormat", "Tools", "any_call", "json_object_call")

Tools = Mapping[str, Tool]
"""The tools of a request, by name."""


class MarkedCallFormat:
    """What most `ToolCallFormat`s have in common: a subclass adds `recognises`, `read` and `call_grammar`.

    `marks` begin a call wherever they stand, `leading` only at the beginning of an answer. `control` are the texts that
    may be control tokens.
    """

    marks: ClassVar[tuple[str, ...]] = ()
    leading: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[frozenset[str]] = frozenset()

    def preserved_tokens(self, rendered: RenderedChat) -> frozenset[str]:
        return self.control

    def open(self, request: ChatRequest, rendered: RenderedChat) -> MarkedCallParser:
        tools = {tool.name: tool for tool in request.tools}
        return MarkedCallParser(
            partial(self.read, tools), self.marks, leading=self.leading, in_pieces=request.tool_calls_in_pieces
        )

    def read(self, tools: Tools, source: CallSource) -> Calls:
        """Reads calls of `tools`. See `CallReader`."""
        raise NotImplementedError


def any_call(tools: Sequence[Tool], write: Callable[[Tool], str], *, rule: str = "one") -> str:
    """The definition of a rule for a call of any of the tools, each of which `write` describes."""
    names = [f"{rule}_{number}" for number in range(len(tools))]
    lines = [f"{rule}: {' | '.join(names)}"]
    lines += [f"{name}: {write(tool)}" for name, tool in zip(names, tools, strict=True)]
    return "\n".join(lines)


def json_object_call(tool: Tool, *, name: str = "name", arguments: str = "arguments") -> str:
    """A call as a JSON object, for `any_call`."""
    begun = literal(f'{{"{name}": {literal(tool.name)}, "{arguments}": ')
    return f'{begun} {json_text(tool.parameters)} "}}"'
