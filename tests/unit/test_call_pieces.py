"""Tool calls that are reported while they are written."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
import pytest

from corral.adapters.answer_parsers.call_source import CallSource
from corral.adapters.answer_parsers.glm import GlmCalls
from corral.adapters.answer_parsers.hermes import HermesCalls
from corral.adapters.answer_parsers.llama3_json import Llama3JsonCalls
from corral.adapters.answer_parsers.minimax import MiniMaxCalls
from corral.adapters.answer_parsers.mistral import MistralCalls
from corral.adapters.answer_parsers.qwen3_coder import Qwen3CoderCalls
from corral.adapters.answer_parsers.strict_json import StrictJson
from corral.core.generation.call_errors import BrokenToolCall
from corral.core.generation.parsing import parsed
from corral.core.generation.single_call import until_first_call
from corral.core.ports.chat import RenderedChat
from corral.core.requests.messages import Tool, ToolCall
from corral.core.requests.outputs import Delta, Finished, FinishReason, Output, Usage
from corral.core.requests.requests import ChatRequest

_TOOLS = (
    Tool(name="write", parameters={"type": "object", "properties": {"text": {"type": "string"}}}),
    Tool(name="now"),
)
_SAMPLES: Sequence[Any] = (
    {"a": 1, "b": [], "c": {}, "d": [1, -2.5e3, "x", None, [True, {"e": ""}], {}], "f\u00e9\U0001f994": 'q"\\/\n\t'},
    {"text": "line\nline\u2028 \u0001 end", "deep": [[[[{"x": [[]]}]]]]},
    [1, [2, 3], {"a": "b"}],
)
_ODD = '"{}[]:,\\ \n01.e-+tfnu9dD8cé'


class _Heard(StrictJson):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def heard(self, text: str) -> None:
        self.text += text


def _watched(text: str, sizes: Sequence[int]) -> tuple[Any, str, str]:
    """The value, what was heard of it, and why it was refused."""
    source, watch, value, why = CallSource(), _Heard(), None, ""
    steps, at = source.json(watch=watch), 0
    try:
        while True:
            next(steps)
            size = sizes[at % len(sizes)]
            source.give(text[at : at + size])
            at += size
            source.ended = at >= len(text)
    except StopIteration as stopped:
        value = stopped.value
    except ValueError as error:
        why = str(error)
    return value, watch.text, why


@pytest.mark.parametrize("sizes", [[1], [2, 5, 1], [1000]])
def test_what_is_heard_is_the_same_json(sizes: Sequence[int]) -> None:
    """However the text is cut, with and without escapes, and with control characters as they are."""
    for sample in _SAMPLES:
        for ascii in (True, False):
            for text in (json.dumps(sample, ensure_ascii=ascii), json.dumps(sample, indent=2, ensure_ascii=ascii)):
                value, heard, why = _watched(text, sizes)
                assert (value, json.loads(heard), why) == (sample, sample, "")
    value, heard, _ = _watched('{"a": "one\ntwo\x02\tthree"}', sizes)
    assert value == json.loads(heard) == {"a": "one\ntwo\x02\tthree"}


def test_malformed_json_is_refused_before_it_is_heard() -> None:
    """What is read is what a decoder accepts, and what is heard of the rest can be completed."""
    chance, refused = random.Random(7), 0
    for _ in range(4000):
        text = json.dumps(chance.choice(_SAMPLES), ensure_ascii=chance.random() < 0.5)
        for _ in range(chance.randint(1, 2)):
            at = chance.randrange(1, len(text))
            text = text[:at] + chance.choice(_ODD) * chance.randint(0, 1) + text[at + chance.randint(0, 2) :]
        value, heard, why = _watched(text, [1, 3, 7])
        assert bool(why) == bool(_plainly(text)[1]), (text, why)
        if why:
            refused += 1
            assert not heard or _is_begun(heard), (text, heard)
        else:
            assert json.loads(heard) == value
    assert refused > 1000


def _plainly(text: str) -> tuple[Any, str]:
    """The same without anybody watching."""
    source = CallSource()
    source.give(text)
    source.ended = True
    try:
        next(steps := source.json())
        raise AssertionError(steps)
    except StopIteration as stopped:
        return stopped.value, ""
    except ValueError as error:
        return None, str(error)


def _is_begun(text: str) -> bool:
    """Whether some ending makes it JSON. It ends inside a string, or after one of the signs between values."""
    levels: list[str] = []
    inside = escaped = False
    for char in text:
        if inside:
            inside, escaped = escaped or char != '"', char == "\\" and not escaped
        elif char == '"':
            inside = True
        elif char in "{[":
            levels.append(char)
        elif char in "}]":
            levels.pop()
    rest = "".join({"{": "}", "[": "]"}[level] for level in reversed(levels))
    endings = ('":0', '"', ":0", "") if inside or text.endswith('"') else ("",)
    for ending in endings:
        try:
            json.loads(text + ending + rest)
        except ValueError:
            continue
        return True
    return False


def _answer(
    text: str, size: int = 1, call_format: Any = HermesCalls, reason: FinishReason = "stop", wanted: bool = True
) -> AsyncGenerator[Output, None]:
    async def outputs() -> AsyncGenerator[Output, None]:
        for at in range(0, len(text), size):
            yield Delta(text=text[at : at + size], token_count=1)
        yield Finished(reason=reason, usage=Usage())

    parser = call_format().open(
        ChatRequest(messages=(), tools=_TOOLS, tool_calls_in_pieces=wanted), RenderedChat(prompt=())
    )
    return parsed(outputs(), [parser], "model", calls_in_pieces=wanted)


async def _read(outputs: AsyncGenerator[Output, None], heard: list[Output]) -> None:
    async for output in outputs:
        heard.append(output)


def _heard(outputs: AsyncGenerator[Output, None]) -> tuple[list[Delta], Finished]:
    heard: list[Output] = []
    asyncio.run(_read(outputs, heard))
    assert isinstance(heard[-1], Finished)
    return [output for output in heard if isinstance(output, Delta)], heard[-1]


@pytest.mark.parametrize(
    ("call_format", "text"),
    [
        (HermesCalls, 'Well.<tool_call>{"name": "write", "arguments": {"text": "once upon a time"}}</tool_call>'),
        (MistralCalls, '[TOOL_CALLS]write[ARGS]{"text": "once upon a time"}'),
        (MistralCalls, '[TOOL_CALLS][{"name": "write", "arguments": {"text": "once upon a time"}}]'),
        (Llama3JsonCalls, '{"type": "function", "name": "write", "parameters": {"text": "once upon a time"}}'),
        (
            Qwen3CoderCalls,
            "<tool_call>\n<function=write>\n<parameter=text>\nonce upon a time\n</parameter>\n</function></tool_call>",
        ),
        (
            GlmCalls,
            "<tool_call>write\n<arg_key>text</arg_key>\n<arg_value>once upon a time</arg_value>\n</tool_call>",
        ),
        (
            MiniMaxCalls,
            '<minimax:tool_call><invoke name="write"><parameter name="text">once upon a time</parameter></invoke>'
            "</minimax:tool_call>",
        ),
    ],
)
def test_arguments_come_out_while_they_are_written(call_format: Any, text: str) -> None:
    """Each character of a text in them is passed on when it comes, with the number and the id of the call."""
    deltas, _ = _heard(_answer(text, call_format=call_format))
    pieces = [piece for delta in deltas for piece in delta.tool_call_pieces]
    [call] = [call for delta in deltas for call in delta.tool_calls]
    assert len(pieces) >= len("once upon a time")
    assert {(piece.index, piece.id) for piece in pieces} == {(0, call.id)}
    assert [piece.name for piece in pieces] == ["write"] + [""] * (len(pieces) - 1)
    assert json.loads("".join(piece.arguments for piece in pieces)) == call.arguments == {"text": "once upon a time"}


@pytest.mark.parametrize(
    "text",
    [
        '{"arguments": {"a": 1}, "name": "write"}',
        '{"function": {"name": "write", "arguments": {"a": 1}}}',
        '{"name": "write", "arguments": "{\\"a\\": 1}"}',
        '{"name": "now", "name": "write", "arguments": null, "arguments": {"a": 1}}',
    ],
)
def test_other_calls_come_in_one_piece(text: str) -> None:
    """If the name comes last, or the arguments are no literal object, the piece is the JSON text of the call's."""
    deltas, _ = _heard(_answer(f"<tool_call>{text}</tool_call>"))
    [call] = [call for delta in deltas for call in delta.tool_calls]
    [piece] = [piece for delta in deltas for piece in delta.tool_call_pieces]
    assert (piece.name, piece.id, piece.index, piece.arguments) == ("write", call.id, 0, '{"a":1}')


@pytest.mark.parametrize(
    "text", ["", "\n", "\n\n", "a\n", "\n a\n\nb\n\n", 'q"\\\t<x>&amp;\u2028é🦔', "</par", "1", "null"]
)
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_texts_between_tags(text: str, size: int) -> None:
    """They become the same strings in pieces, without the line breaks of the tags."""
    answer = f"<function=write><parameter=other>{text}</parameter><parameter=text>{text}</parameter></function>"
    deltas, _ = _heard(_answer(answer, size, Qwen3CoderCalls))
    [call] = [call for delta in deltas for call in delta.tool_calls]
    pieces = [piece for delta in deltas for piece in delta.tool_call_pieces]
    assert json.loads("".join(piece.arguments for piece in pieces)) == call.arguments
    assert call.arguments["text"] == text.removeprefix("\n").removesuffix("\n")


def test_calls_follow_each_other() -> None:
    """Pieces of two calls do not mix, whether or not their arguments stream, and the ids are those of the calls."""
    one = '<tool_call>{"name": "write", "arguments": {"text": "a"}}</tool_call>'
    two = '<tool_call>{"arguments": {"text": "b"}, "name": "write"}</tool_call>'
    for text in (one + two + one, two + one + two, one + one + two):
        for size in (1, 5, 1000):
            deltas, _ = _heard(_answer(text, size))
            calls = [call for delta in deltas for call in delta.tool_calls]
            pieces = [piece for delta in deltas for piece in delta.tool_call_pieces]
            assert [call.index for call in calls] == [0, 1, 2]
            assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)
            for call in calls:
                own = [piece for piece in pieces if piece.index == call.index]
                assert {piece.id for piece in own} == {call.id}
                assert json.loads("".join(piece.arguments for piece in own)) == call.arguments


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"name": "write", "arguments": {"text": "so "it" is"}}', "unexpected"),
        ('{"name": "write", "arguments": {"text": "a",}}', "unexpected"),
        ('{"name": "write", "arguments": {"text": "a"}', "the answer ended inside it"),
        ('{"name": "write", "arguments": {"text": "\\ud83e"}}', "unexpected"),
    ],
)
def test_a_call_that_turns_out_to_be_none_ends_the_answer(text: str, why: str) -> None:
    """Its beginning is out, so that the client must not take it for a call; without pieces, it is text as ever."""
    heard: list[Output] = []
    with pytest.raises(BrokenToolCall, match=why) as failed:
        asyncio.run(_read(_answer(f"<tool_call>{text}"), heard))
    assert "'write'" in str(failed.value)
    assert failed.value.remedy
    assert not any(delta.tool_calls or delta.text for delta in heard if isinstance(delta, Delta))
    deltas, finished = _heard(_answer(f"<tool_call>{text}", wanted=False))
    assert "".join(delta.text for delta in deltas) == f"<tool_call>{text}"
    assert finished.warnings


def test_a_call_cannot_change_its_name_once_it_is_out() -> None:
    """Whoever has the pieces has the first name."""
    text = '<tool_call>{"name": "write", "arguments": {"text": "a"}, "name": "now"}</tool_call>'
    with pytest.raises(BrokenToolCall, match="it has 'name' after its arguments"):
        asyncio.run(_read(_answer(text), []))


def test_a_call_at_the_limit_stays_as_it_is() -> None:
    """An answer that is cut off ends with what there is of the call, as clients expect, and says so."""
    text = '<tool_call>{"name": "write", "arguments": {"text": "once upon'
    deltas, finished = _heard(_answer(text, reason="length"))
    pieces = [piece for delta in deltas for piece in delta.tool_call_pieces]
    assert "".join(piece.arguments for piece in pieces) == '{"text": "once upon'
    assert not any(piece.problem for piece in pieces)
    assert not any(delta.tool_calls or delta.text for delta in deltas)
    assert finished.warnings == ("a tool call is incomplete: the answer ended inside it",)


@pytest.mark.parametrize("size", [1, 1000])
def test_one_call_alone_in_pieces(size: int) -> None:
    """Of a caller who wants one call at a time, the second one's pieces are not seen either."""
    one = '<tool_call>{"name": "write", "arguments": {"text": "a"}}</tool_call>'
    deltas, _ = _heard(until_first_call(_answer(one + one, size)))
    assert {piece.index for delta in deltas for piece in delta.tool_call_pieces} == {0}
    assert sum(len(delta.tool_calls) for delta in deltas) == 1


def test_calls_of_engines_with_their_own_formats_come_in_pieces() -> None:
    """A delta with whole calls gets a piece for each."""

    async def outputs() -> AsyncGenerator[Output, None]:
        yield Delta(tool_calls=(ToolCall(name="now"), ToolCall(name="write", arguments={"a": [1]}, id="x")))
        yield Finished(reason="stop", usage=Usage())

    [delta], _ = _heard(parsed(outputs(), [], "model", calls_in_pieces=True))
    assert [(piece.index, piece.name, piece.arguments) for piece in delta.tool_call_pieces] == [
        (0, "now", "{}"),
        (1, "write", '{"a":[1]}'),
    ]
    assert [piece.id for piece in delta.tool_call_pieces] == [call.id for call in delta.tool_calls]
    [whole], _ = _heard(parsed(outputs(), [], "model"))
    assert whole == msgspec.structs.replace(delta, tool_call_pieces=(), tool_calls=whole.tool_calls)
