"""A sound tool call format, and formats that break one promise each, which `ToolCallFormatContract` sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from msgspec.structs import replace

from corral.adapters.answer_parsers.hermes import HermesCalls
from corral.core.models.model import TemplateText
from corral.core.ports.answer_parsers import AnswerParser
from corral.core.ports.chat import RenderedChat
from corral.core.requests.messages import Tool, ToolCall
from corral.core.requests.outputs import Delta, ToolCallPiece
from corral.core.requests.requests import ChatRequest

__all__ = ("CALL_ANSWERS", "CALL_FORMATS", "CALL_TEMPLATE", "SoundCalls")

CALL_TEMPLATE = TemplateText(kind="jinja", text="{{ messages }}<tool_call>{{ tools }}</tool_call>")

_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
_ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": -2}}\n</tool_call>'

CALL_ANSWERS: Sequence[tuple[str, tuple[str, str, tuple[ToolCall, ...]]]] = (
    (_NOW, ("", "", (ToolCall(name="now"),))),
    (f"One moment.\n\n{_ADD}", ("", "One moment.", (ToolCall(name="add", arguments={"a": 1, "b": -2}),))),
    (f"{_NOW}\n{_ADD}", ("", "", (ToolCall(name="now"), ToolCall(name="add", arguments={"a": 1, "b": -2})))),
)
"""Texts, each with the thinking, the visible text and the calls that a parser must find in it."""


class SoundCalls(HermesCalls):
    """A `ToolCallFormat` that keeps every promise."""

    breaks: ClassVar[str | None] = None
    """The test that fails with this format, and no other does."""


class GreedyCalls(SoundCalls):
    """Takes every template for its own."""

    breaks = "test_it_knows_its_templates"

    def recognises(self, template: TemplateText) -> bool:
        return True


class EmptyTokens(SoundCalls):
    """Preserves a token without text."""

    breaks = "test_preserved_tokens_are_texts"

    def preserved_tokens(self, rendered: RenderedChat) -> frozenset[str]:
        return super().preserved_tokens(rendered) | {""}


class _Edited:
    """An `AnswerParser` that edits the calls and texts of another."""

    def __init__(self, inner: AnswerParser) -> None:
        self.inner = inner

    def feed(self, delta: Delta) -> Sequence[Delta]:
        return self.inner.feed(delta)

    def finish(self) -> Sequence[Delta]:
        return self.inner.finish()


class TrustingCalls(SoundCalls):
    """Says nothing about calls of tools that do not exist."""

    breaks = "test_a_call_of_an_unknown_tool_stays_text"

    class Parser(_Edited):
        def feed(self, delta: Delta) -> Sequence[Delta]:
            return [replace(one, warnings=()) for one in super().feed(delta)]

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:  # type: ignore[override]
        return self.Parser(super().open(request, rendered))


class ForgetfulCalls(SoundCalls):
    """Drops the text of a call that is cut off."""

    breaks = "test_a_call_that_breaks_off_stays_text"

    class Parser(_Edited):
        def finish(self) -> Sequence[Delta]:
            return [one for one in super().finish() if not one.warnings]

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:  # type: ignore[override]
        return self.Parser(super().open(request, rendered))


class OtherGrammar(SoundCalls):
    """A grammar of single calls with keys that its parser does not read."""

    breaks = "test_what_the_grammar_allows_is_read"

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        grammar = super().call_grammar(tools, rendered, required=required)
        return grammar.replace(r"{\"name\"", r"{\"tool\"") if len(tools) == 1 else grammar


class LooseGrammar(SoundCalls):
    """A grammar that asks for no arguments."""

    breaks = "test_the_grammar_holds_arguments_to_their_schema"

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        loose = [replace(tool, parameters={**tool.parameters, "required": []}) for tool in tools]
        return super().call_grammar(loose, rendered, required=required)


class ChattyGrammar(SoundCalls):
    """A grammar of required calls in which they may be missing, if there are several tools."""

    breaks = "test_the_grammar_of_required_calls_begins_with_one"

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        grammar = super().call_grammar(tools, rendered, required=required)
        return grammar.replace("start: ", 'start: "Yes." | ', 1) if len(tools) > 1 else grammar


class EndlessGrammar(SoundCalls):
    """A grammar of required calls that lets any number of them follow the first."""

    breaks = "test_required_calls_come_to_an_end"

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        return super().call_grammar(tools, rendered, required=required).replace("{0,3}", "*")


class AbsentGrammar(SoundCalls):
    """A grammar of free answers that holds nothing."""

    breaks = "test_the_grammar_of_free_answers_holds_calls_alone"

    def call_grammar(self, tools: Sequence[Tool], rendered: RenderedChat, *, required: bool) -> str:
        return super().call_grammar(tools, rendered, required=True) if required else "start: /(.|\\n)*/"


class WrongPieces(SoundCalls):
    """Pieces of other arguments than the call's."""

    breaks = "test_pieces_are_those_of_the_calls"

    class Parser(_Edited):
        def feed(self, delta: Delta) -> Sequence[Delta]:
            return [
                replace(one, tool_call_pieces=tuple(map(_changed, one.tool_call_pieces))) for one in super().feed(delta)
            ]

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:  # type: ignore[override]
        return self.Parser(super().open(request, rendered))


def _changed(piece: ToolCallPiece) -> ToolCallPiece:
    return replace(piece, arguments=piece.arguments.replace("1", "7"))


class EagerPieces(SoundCalls):
    """Pieces for those who have not asked for any."""

    breaks = "test_there_are_no_pieces_unless_they_are_wanted"

    class Parser(_Edited):
        def feed(self, delta: Delta) -> Sequence[Delta]:
            return [
                replace(one, tool_call_pieces=tuple(ToolCallPiece(name=call.name) for call in one.tool_calls))
                for one in super().feed(delta)
            ]

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:  # type: ignore[override]
        parser = super().open(request, rendered)
        return parser if request.tool_calls_in_pieces else self.Parser(parser)


class SilentPieces(SoundCalls):
    """Pieces that just stop when the call breaks off."""

    breaks = "test_a_call_in_pieces_that_breaks_off"

    class Parser(_Edited):
        def finish(self) -> Sequence[Delta]:
            return [replace(one, tool_call_pieces=()) for one in super().finish()]

    def open(self, request: ChatRequest, rendered: RenderedChat) -> AnswerParser:  # type: ignore[override]
        return self.Parser(super().open(request, rendered))


CALL_FORMATS: tuple[type[SoundCalls], ...] = (
    GreedyCalls,
    EmptyTokens,
    TrustingCalls,
    ForgetfulCalls,
    OtherGrammar,
    LooseGrammar,
    ChattyGrammar,
    EndlessGrammar,
    AbsentGrammar,
    WrongPieces,
    EagerPieces,
    SilentPieces,
)
"""The broken formats."""
