"""The contract of tool call formats, as a suite to subclass: give it a fixture `make_format`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import pytest

from corral.core.models.model import TemplateText
from corral.core.ports.answer_parsers import ToolCallFormat
from corral.core.ports.chat import RenderedChat
from corral.core.ports.tokens import RequestMask, Vocabulary
from corral.core.requests.messages import Tool, ToolCall
from corral.core.requests.outputs import Delta, ToolCallPiece
from corral.core.requests.requests import ChatRequest, Constraint
from corral.plugins.testing.answer_parser import AnswerParserContract, MakeParser

__all__ = ("TOOLS", "MakeCallFormat", "ToolCallFormatContract")

MakeCallFormat = Callable[[], ToolCallFormat]

TOOLS = (
    Tool(
        name="get_weather",
        description="The weather in a city.",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
            "required": ["city"],
        },
    ),
    Tool(
        name="add",
        description="The sum of two numbers.",
        parameters={
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    ),
    Tool(name="now", description="The time.", parameters={"type": "object", "properties": {}}),
)
"""The tools of the suite, which the calls in `answers` are calls of."""

_OTHER_TEMPLATES = (
    TemplateText(kind="jinja", text="{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"),
    TemplateText(kind="go", text="{{ if .System }}{{ .System }}{{ end }}\n{{ .Prompt }}"),
)
_UNKNOWN = "no_such_tool"
_VOCABULARY = Vocabulary(
    pieces=(*(bytes([byte]) for byte in range(256)), b"<end>"), control=frozenset({256}), ends=frozenset({256})
)
_END = 256
_WEIGHTS = {byte: 40 if byte == ord('"') else 10 for byte in range(128) if not chr(byte).isalnum()}
_WALKS = 4
_MOST_CALLS = 16
_SIZES = (1, 3, 1000)
_MOST_BYTES = 4000


class ToolCallFormatContract(AnswerParserContract):
    """What every `ToolCallFormat` promises, and what its parsers do.

    A subclass gives the fixture `make_format`, and sets `template`, to one that the format recognises, and `answers`:
    texts with calls of the `TOOLS` of this suite, of which at least one begins with visible text. `rendered` is what
    the format gets with them. `endings` are the texts that end a value in it.
    """

    template: ClassVar[TemplateText]
    rendered: ClassVar[RenderedChat] = RenderedChat(prompt=())
    endings: ClassVar[Sequence[str]] = ('"',)

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        raise NotImplementedError("a subclass of ToolCallFormatContract gives the fixture make_format")

    @pytest.fixture
    def make_parser(self, make_format: MakeCallFormat) -> MakeParser:
        return lambda: make_format().open(ChatRequest(messages=(), tools=TOOLS), self.rendered)

    def test_it_knows_its_templates(self, make_format: MakeCallFormat) -> None:
        """It recognises `template`, and no template without tools."""
        assert make_format().recognises(self.template)
        assert not any(make_format().recognises(other) for other in _OTHER_TEMPLATES)

    def test_preserved_tokens_are_texts(self, make_format: MakeCallFormat) -> None:
        """They are not empty, and each occurs in an answer."""
        for token in make_format().preserved_tokens(self.rendered):
            assert token
            assert any(token in text for text, _ in self.answers)

    def test_a_call_of_an_unknown_tool_stays_text(self, make_format: MakeCallFormat) -> None:
        """It is visible, and a warning says why."""
        for text, (_, _, calls) in self.answers:
            for name in {call.name for call in calls}:
                visible, found, warnings = self._read(make_format(), text.replace(name, _UNKNOWN))
                assert _UNKNOWN in visible
                assert _UNKNOWN not in {call.name for call in found}
                assert warnings

    def test_a_call_that_breaks_off_stays_text(self, make_format: MakeCallFormat) -> None:
        """Until the first call is complete, all of a text that ends early is visible."""
        for text, _ in self.answers:
            for end in range(len(text)):
                visible, calls, _ = self._read(make_format(), text[:end])
                if calls:
                    break
                assert visible == text[:end]

    def test_what_the_grammar_allows_is_read(self, make_format: MakeCallFormat) -> None:
        """Every text that the grammar of required calls describes consists of calls, and no text is lost."""
        for tool in TOOLS:
            for seed in range(_WALKS):
                text = _written(make_format().call_grammar((tool,), self.rendered, required=True), seed, self.endings)
                visible, calls, warnings = self._read(make_format(), text)
                assert (visible.strip(), warnings) == ("", ()), text
                assert {call.name for call in calls} == {tool.name}, text

    def test_the_grammar_holds_arguments_to_their_schema(self, make_format: MakeCallFormat) -> None:
        """Required arguments are there, others are as described, and there are no further ones."""
        for seed in range(_WALKS):
            text = _written(make_format().call_grammar(TOOLS, self.rendered, required=True), seed, self.endings)
            for call in self._read(make_format(), text)[1]:
                [tool] = [one for one in TOOLS if one.name == call.name]
                assert set(tool.parameters.get("required", ())) <= set(call.arguments), text
                for key, value in call.arguments.items():
                    assert _fits(value, tool.parameters["properties"][key]), text

    def test_the_grammar_of_required_calls_begins_with_one(self, make_format: MakeCallFormat) -> None:
        """No other text is possible, not even before a call. Of the `answers`, at least one is."""
        grammar = make_format().call_grammar(TOOLS, self.rendered, required=True)
        possible = [visible for text, (_, visible, _) in self.answers if _follows(grammar, text)]
        assert possible
        assert not any(visible.strip() for visible in possible)
        assert not _follows(grammar, "Yes.")

    def test_required_calls_come_to_an_end(self, make_format: MakeCallFormat) -> None:
        """A model that would go on calling for ever has to end its answer after a few calls."""
        [tool] = TOOLS[-1:]  # without arguments, which may have any length
        for seed in range(_WALKS):
            grammar = make_format().call_grammar((tool,), self.rendered, required=True)
            text = _written(grammar, seed, self.endings, goes_on=True)
            assert text.count(tool.name) <= _MOST_CALLS, text

    def test_the_grammar_of_free_answers_holds_calls_alone(self, make_format: MakeCallFormat) -> None:
        """Any text without a call is possible, and calls of the tools, but none of another tool."""
        grammar = make_format().call_grammar(TOOLS, self.rendered, required=False)
        assert _follows(grammar, "Yes. 1 < 2,\n\n {no} [call] é🦔")
        assert any(_follows(grammar, text) for text, (_, visible, _) in self.answers if visible)
        for text, (_, _, calls) in self.answers:
            for name in {call.name for call in calls}:
                assert not _follows(grammar, text.replace(name, _UNKNOWN))

    def test_pieces_are_those_of_the_calls(self, make_format: MakeCallFormat) -> None:
        """If a parser reports calls in pieces, these are complete when the call is; what else comes out is the same."""
        for text, (_, visible, calls) in self.answers:
            for size in _SIZES:
                heard = self._in_pieces(make_format(), text, size)
                assert "".join(delta.text for delta in heard) == visible
                assert tuple(call for delta in heard for call in delta.tool_calls) == calls
                begun: list[ToolCallPiece] = []
                for delta in heard:
                    begun += delta.tool_call_pieces
                    if begun and delta.tool_calls:
                        call = delta.tool_calls[0]
                        assert [piece.name for piece in begun] == [call.name] + [""] * (len(begun) - 1)
                        assert begun[0].id in (None, call.id)
                        assert json.loads("".join(piece.arguments for piece in begun)) == call.arguments
                        begun = []
                assert not begun

    def test_there_are_no_pieces_unless_they_are_wanted(self, make_format: MakeCallFormat) -> None:
        """Nor are there any of a tool that the request does not have."""
        for text, (_, _, calls) in self.answers:
            parser = make_format().open(ChatRequest(messages=(), tools=TOOLS), self.rendered)
            assert not any(delta.tool_call_pieces for delta in (*parser.feed(Delta(text=text)), *parser.finish()))
            for name in {call.name for call in calls}:
                for delta in self._in_pieces(make_format(), text.replace(name, _UNKNOWN), 1):
                    assert name not in {piece.name for piece in delta.tool_call_pieces}
                    assert _UNKNOWN not in {piece.name for piece in delta.tool_call_pieces}

    def test_a_call_in_pieces_that_breaks_off(self, make_format: MakeCallFormat) -> None:
        """Its last piece says that it is none, and its text is not visible. What is out is the beginning of it all."""
        for text, _ in self.answers:
            whole = _joined_pieces(self._in_pieces(make_format(), text, 1))
            for end in range(len(text)):
                heard = self._in_pieces(make_format(), text[:end], 1)
                ended = [piece for delta in heard for piece in delta.tool_call_pieces if piece.problem]
                begun = sum(bool(piece.name) for delta in heard for piece in delta.tool_call_pieces)
                complete = sum(bool(delta.tool_calls) for delta in heard)
                assert whole.startswith(_joined_pieces(heard))
                assert len(ended) == max(0, begun - complete)
                assert not ended or heard[-1].tool_call_pieces[-1] is ended[0]

    def _in_pieces(self, call_format: ToolCallFormat, text: str, size: int) -> list[Delta]:
        """What comes out of a text that arrives so many characters at a time, if calls are wanted in pieces."""
        parser = call_format.open(ChatRequest(messages=(), tools=TOOLS, tool_calls_in_pieces=True), self.rendered)
        parts = [Delta(text=text[at : at + size]) for at in range(0, len(text), size)]
        return [heard for part in parts for heard in parser.feed(part)] + list(parser.finish())

    def _read(self, call_format: ToolCallFormat, text: str) -> tuple[str, Sequence[ToolCall], tuple[str, ...]]:
        """Visible text, calls, and warnings."""
        parser = call_format.open(ChatRequest(messages=(), tools=TOOLS), self.rendered)
        heard = [*parser.feed(Delta(text=text)), *parser.finish()]
        visible = "".join(delta.text for delta in heard)
        calls = [call for delta in heard for call in delta.tool_calls]
        return visible, calls, tuple(warning for delta in heard for warning in delta.warnings)


def _joined_pieces(deltas: Sequence[Delta]) -> str:
    return "".join(f"{piece.name}{piece.arguments}" for delta in deltas for piece in delta.tool_call_pieces)


@cache
def _masks() -> Any:
    masks = pytest.importorskip("corral.adapters.constraints.masks", exc_type=ImportError)
    return masks.GrammarMasks(_VOCABULARY)


def _mask(grammar: str) -> RequestMask:
    mask: RequestMask = _masks()(Constraint(kind="lark", source=grammar))
    return mask


def _follows(grammar: str, text: str) -> bool:
    """Whether the text, with nothing after it, is possible."""
    mask = _mask(grammar)
    for token_id in (*text.encode(), _END):
        if not (mask.allowed() or b"")[token_id >> 3] >> (token_id & 7) & 1:
            return False
        if token_id != _END:
            mask.accept(token_id)
    return True


def _written(grammar: str, seed: int, endings: Sequence[str], *, goes_on: bool = False) -> str:
    """A text that the grammar allows. It ends soon, as what ends a string or a value is chosen more often; or, if it
    `goes_on`, only where nothing else is allowed.
    """
    mask, chance, text, planned = _mask(grammar), random.Random(seed), bytearray(), b""
    while len(text) < _MOST_BYTES:
        bits = int.from_bytes(mask.allowed() or b"", "little")
        allowed = [byte for byte in range(256) if bits >> byte & 1]
        if bits >> _END & 1 and (not allowed or (not goes_on and chance.random() < 0.5)):
            return text.decode()
        if not planned and chance.random() < 0.1:
            planned = chance.choice(endings).encode()
        byte, planned = (planned[0], planned[1:]) if planned else (-1, b"")
        if byte not in allowed:
            planned = b""
            [byte] = chance.choices(allowed, [_WEIGHTS.get(byte, 1) for byte in allowed])
        mask.accept(byte)
        text.append(byte)
    raise AssertionError(f"the grammar lets a call go on and on: {text[:200].decode(errors='replace')!r}…")


def _fits(value: Any, schema: Any) -> bool:
    kinds: dict[str, Any] = {"string": str, "integer": int}
    return isinstance(value, kinds[schema["type"]]) and value in schema.get("enum", (value,))
