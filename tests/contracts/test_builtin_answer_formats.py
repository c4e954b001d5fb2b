"""The built-in formats of answers against the contracts of their ports: what each of them reads and writes."""

from __future__ import annotations

import json
import os
import re
from typing import Any, ClassVar

import pytest

from corral.adapters.answer_parsers.cohere import CohereCalls
from corral.adapters.answer_parsers.command_r import CommandRCalls
from corral.adapters.answer_parsers.deepseek import DeepSeekCalls, DeepSeekV31Calls
from corral.adapters.answer_parsers.deepseek_dsml import DeepSeekDsmlCalls
from corral.adapters.answer_parsers.gemma import FunctionGemmaCalls, Gemma4Calls
from corral.adapters.answer_parsers.glm import GlmCalls
from corral.adapters.answer_parsers.go_tag import GoTagCalls
from corral.adapters.answer_parsers.granite import GraniteCalls, Phi4Calls
from corral.adapters.answer_parsers.harmony import HarmonyParser
from corral.adapters.answer_parsers.harmony_calls import HarmonyCalls
from corral.adapters.answer_parsers.kimi import KimiCalls
from corral.adapters.answer_parsers.llama3_json import Llama3JsonCalls
from corral.adapters.answer_parsers.minimax import MiniMaxCalls
from corral.adapters.answer_parsers.mistral import MistralCalls, MistralListCalls
from corral.adapters.answer_parsers.pythonic import Lfm2Calls, PythonicCalls
from corral.adapters.answer_parsers.qwen3_coder import Qwen3CoderCalls, SeedCalls
from corral.adapters.answer_parsers.think_tags import ThinkTagParser
from corral.adapters.answer_parsers.tool_code import ToolCodeCalls
from corral.adapters.constraints.control_literals import with_control_tokens
from corral.adapters.constraints.masks import GrammarMasks
from corral.core.ports.chat import RenderedChat
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.messages import Tool, ToolCall
from corral.core.requests.outputs import Delta
from corral.core.requests.requests import ChatRequest, Constraint
from corral.core.requests.think_tags import ThinkTags
from corral.plugins.testing.answer_parser import AnswerParserContract, MakeParser
from corral.plugins.testing.tool_call_format import TOOLS, MakeCallFormat, ToolCallFormatContract, _follows, _written
from tests.unit.call_templates import TEMPLATES

_ROUNDS = int(os.environ.get("CORRAL_TEST_EXAMPLES", "4"))

Read = tuple[str, str, tuple[ToolCall, ...]]


def calls(*made: ToolCall, text: str = "") -> Read:
    return ("", text, made)


def weather(city: str, **more: Any) -> ToolCall:
    return ToolCall(name="get_weather", arguments={"city": city}, **more)


def add(a: int, b: int, **more: Any) -> ToolCall:
    return ToolCall(name="add", arguments={"a": a, "b": b}, **more)


def now(**more: Any) -> ToolCall:
    return ToolCall(name="now", **more)


NOW = now()


class _BuiltIn(ToolCallFormatContract):
    call_format: ClassVar[type[Any]]

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return self.call_format

    def test_arguments_of_many_types(self) -> None:
        """What the grammar allows for nested, optional and enumerated arguments is read, with their types."""
        call_format, request = self.call_format(), ChatRequest(messages=(), tools=(RICH,))
        grammar = call_format.call_grammar((RICH,), self.rendered, required=True)
        for seed in range(_ROUNDS):
            text = _written(grammar, seed, (*self.endings, "}", "]"))
            parser = call_format.open(request, self.rendered)
            heard = [*parser.feed(Delta(text=text)), *parser.finish()]
            assert "".join(one.text for one in heard).strip() == "", text
            self._check_pieces(text, [call for one in heard for call in one.tool_calls])
            for arguments in (call.arguments for one in heard for call in one.tool_calls):
                assert {"count", "kind"} <= set(arguments), text
                assert arguments["kind"] in ("a", "b c", 3), text
                assert arguments.get("fixed", "x") == "x", text
                assert all(isinstance(arguments[name], kind) for name, kind in TYPES.items() if name in arguments), text

    def _check_pieces(self, text: str, calls: list[ToolCall]) -> None:
        """In pieces, the calls are the same."""
        request = ChatRequest(messages=(), tools=(RICH,), tool_calls_in_pieces=True)
        parser = self.call_format().open(request, self.rendered)
        heard = [one for at in range(0, len(text), 5) for one in parser.feed(Delta(text=text[at : at + 5]))]
        heard += parser.finish()
        assert [call for one in heard for call in one.tool_calls] == calls
        begun = ""
        for one in heard:
            begun += "".join(piece.arguments for piece in one.tool_call_pieces)
            assert not any(piece.problem for piece in one.tool_call_pieces)
            if begun and one.tool_calls:
                assert json.loads(begun) == one.tool_calls[0].arguments, text
                begun = ""
        assert not begun

    def test_several_calls_may_be_required(self) -> None:
        """Two in one answer, as the format writes them, and no endless number: see the contract."""
        grammar = self.call_format().call_grammar(TOOLS, self.rendered, required=True)
        texts = [text for text, (_, visible, calls) in self.answers if not visible and len(calls) > 1]
        assert texts
        assert all(_follows(grammar, text) for text in texts)

    def test_a_call_that_breaks_off_is_warned_of(self) -> None:
        """Wherever the answer ends: inside the mark before the call too, but not after its first characters."""
        text = next(text for text, (_, visible, calls) in self.answers if not visible and calls)
        for end in range(len(text)):
            _, calls, warnings = self._read(self.call_format(), text[:end])
            if calls:
                break
            if end < 3:
                assert warnings == ()
            if end > 4:
                assert warnings, text[:end]

    @pytest.mark.parametrize("required", [True, False])
    def test_marks_may_be_control_tokens(self, required: bool) -> None:
        """The grammar allows the answers also when all marks of the format are control tokens of the model."""
        call_format = self.call_format()
        marks = sorted(call_format.preserved_tokens(self.rendered))
        end = 256 + len(marks)
        vocabulary = Vocabulary(
            pieces=(*(bytes([byte]) for byte in range(256)), *(mark.encode() for mark in marks), b"<end>"),
            control=frozenset(range(256, end + 1)),
            ends=frozenset({end}),
        )
        grammar = call_format.call_grammar(TOOLS, self.rendered, required=required)
        masks = GrammarMasks(vocabulary)
        for text, (_, visible, calls) in self.answers:
            values = "".join(str(value) for call in calls for value in call.arguments.values())
            if (visible and required) or any(mark in values for mark in marks):
                continue  # text before a call, or a mark that is text
            mask = masks(Constraint(kind="lark", source=with_control_tokens(grammar, marks, vocabulary)))
            parts = re.split(f"({'|'.join(map(re.escape, marks)) or '(?!)'})", text)
            tokens = [one for part in parts for one in ([256 + marks.index(part)] if part in marks else part.encode())]
            for token in (*tokens, end):
                assert (mask.allowed() or b"")[token >> 3] >> (token & 7) & 1, text
                if token != end:
                    mask.accept(token)


RICH = Tool(
    name="files.put-all",
    parameters={
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "sure": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"$ref": "#/$defs/place"},
            "kind": {"enum": ["a", "b c", 3]},
            "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "fixed": {"const": "x"},
        },
        "required": ["count", "kind"],
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
    },
)
TYPES: dict[str, Any] = {
    "text": str,
    "count": int,
    "sure": bool,
    "tags": list,
    "place": dict,
    "either": (int, type(None)),
}


class TestHarmonyChannels(AnswerParserContract):
    answers = (
        (
            "<|channel|>analysis<|message|>Hm, <3.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
            ("Hm, <3.", "Yes.", ()),
        ),
        (
            "<|channel|>commentary<|message|>First <b>this.<|end|><|start|>assistant<|channel|>final<|message|>Then.",
            ("", "First <b>this.Then.", ()),
        ),
        (
            "to=functions.f<|channel|>commentary<|message|>{}",
            ("", "to=functions.f<|channel|>commentary<|message|>{}", ()),
        ),
    )

    @pytest.fixture
    def make_parser(self) -> MakeParser:
        return HarmonyParser


class TestLabelledThinking(AnswerParserContract):
    answers = (
        ("<|channel>thought\nHm.\n<channel|>Yes.", ("Hm.\n", "Yes.", ())),
        ("<|channel>though not labelled<channel|>\nYes.", ("though not labelled", "Yes.", ())),
        ("<|channel>thought<channel|>Yes.", ("", "Yes.", ())),
    )

    @pytest.fixture
    def make_parser(self) -> MakeParser:
        return lambda: ThinkTagParser(ThinkTags(start="<|channel>", end="<channel|>", label="thought"))


class TestQwen3Coder(_BuiltIn):
    call_format = Qwen3CoderCalls
    template = TEMPLATES["qwen3_coder"]
    endings = ("\n</parameter>",)
    answers = (
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nSão <b>Paulo</tool_call>\n</parameter>\n</function>"
            "\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            calls(weather("São <b>Paulo</tool_call>"), NOW),
        ),
        (
            "So:\n\n<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n-2\n</parameter>\n"
            "</function>\n</tool_call>",
            calls(add(1, -2), text="So:"),
        ),
    )


class TestSeed(_BuiltIn):
    call_format = SeedCalls
    template = TEMPLATES["seed"]
    endings = ("</parameter>",)
    answers = (
        (
            "<seed:tool_call>\n<function=get_weather>\n<parameter=city>a\n\n b</parameter>\n</function>\n"
            "</seed:tool_call>\n<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>",
            calls(weather("a\n\n b"), NOW),
        ),
        (
            "So:\n\n<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n<parameter=b>-2</parameter>"
            "\n</function>\n</seed:tool_call>",
            calls(add(1, -2), text="So:"),
        ),
    )


class TestGlm(_BuiltIn):
    call_format = GlmCalls
    template = TEMPLATES["glm"]
    endings = ("</arg_value>",)
    answers = (
        (
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>12 <é></arg_value>\n</tool_call>\n"
            "<tool_call>now\n</tool_call>",
            calls(weather("12 <é>"), NOW),
        ),
        (
            "So:\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n"
            "<arg_value>-2</arg_value>\n</tool_call>",
            calls(add(1, -2), text="So:"),
        ),
    )


class TestLlama3Json(_BuiltIn):
    call_format = Llama3JsonCalls
    template = TEMPLATES["llama3_json"]
    answers = (
        ('{"name": "get_weather", "parameters": {"city": "a}\\"{"}}', calls(weather('a}"{'))),
        ('<|python_tag|>{"name": "now", "parameters": {}}; {"name": "add", "parameters": {"a": 1, "b": 2}}',
         calls(NOW, add(1, 2))),
        ('So: <|python_tag|>{"name": "now", "parameters": {}}', calls(NOW, text="So:")),
    )  # fmt: skip


class TestPythonic(_BuiltIn):
    call_format = PythonicCalls
    template = TEMPLATES["pythonic"]
    answers = (
        ('[get_weather(city="a)]\\"\\n", unit="kelvin"), now()]',
         calls(ToolCall(name="get_weather", arguments={"city": 'a)]"\n', "unit": "kelvin"}), NOW)),
        ("[add(a=1, b=-2)]\nThere.", calls(add(1, -2), text="There.")),
    )  # fmt: skip


class TestLfm2(_BuiltIn):
    call_format = Lfm2Calls
    template = TEMPLATES["lfm2"]
    answers = (
        ('<|tool_call_start|>[get_weather(city="é"), now()]<|tool_call_end|>', calls(weather("é"), NOW)),
        ("So: <|tool_call_start|>[add(a=1, b=-2)]<|tool_call_end|>", calls(add(1, -2), text="So:")),
    )


class TestToolCode(_BuiltIn):
    call_format = ToolCodeCalls
    template = TEMPLATES["tool_code"]
    answers = (
        ('```tool_code\nget_weather(city="é")\nnow()\n```', calls(weather("é"), NOW)),
        ("So:\n```tool_code\nadd(a=1, b=-2)\n```", calls(add(1, -2), text="So:")),
    )


class TestMistralList(_BuiltIn):
    call_format = MistralListCalls
    template = TEMPLATES["mistral_list"]
    answers = (
        ('[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "[ARGS]"}}, {"name": "now", "arguments": {}}]',
         calls(weather("[ARGS]"), NOW)),
        ('So: [TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": -2}}]', calls(add(1, -2), text="So:")),
    )  # fmt: skip


class TestMistral(_BuiltIn):
    call_format = MistralCalls
    template = TEMPLATES["mistral"]
    answers = (
        ('[TOOL_CALLS]get_weather[ARGS]{"city": "[ARGS]{"}[TOOL_CALLS]now[CALL_ID]x7GhTq2Lp[ARGS]{}',
         calls(weather("[ARGS]{"), now(id="x7GhTq2Lp"))),
        ('So: [TOOL_CALLS]add[ARGS]{"a": 1, "b": -2}', calls(add(1, -2), text="So:")),
    )  # fmt: skip


class TestDeepSeek(_BuiltIn):
    call_format = DeepSeekCalls
    template = TEMPLATES["deepseek"]
    answers = (
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            '{"city": "```"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```'
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            calls(weather("```"), NOW),
        ),
        (
            "So:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n"
            '{"a": 1, "b": -2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            calls(add(1, -2), text="So:"),
        ),
    )


class TestDeepSeekV31(_BuiltIn):
    call_format = DeepSeekV31Calls
    template = TEMPLATES["deepseek_v31"]
    answers = (
        (
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "{"}<｜tool▁call▁end｜>'
            "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            calls(weather("{"), NOW),
        ),
        (
            'So:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1, "b": -2}<｜tool▁call▁end｜>'
            "<｜tool▁calls▁end｜>",
            calls(add(1, -2), text="So:"),
        ),
    )


class TestDeepSeekV32(_BuiltIn):
    call_format = DeepSeekDsmlCalls
    template = TEMPLATES["deepseek_v32"]
    endings = ("</｜DSML｜parameter>",)
    answers = (
        (
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
            '<｜DSML｜parameter name="city" string="true">São </b></｜DSML｜parameter>\n</｜DSML｜invoke>\n'
            '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n'
            "</｜DSML｜function_calls>",
            calls(weather("São </b>"), NOW),
        ),
        (
            'So:\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="add">\n<｜DSML｜parameter name="a" string="false">1'
            '</｜DSML｜parameter>\n<｜DSML｜parameter name="b" string="false">-2</｜DSML｜parameter>\n'
            "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            calls(add(1, -2), text="So:"),
        ),
    )


class TestKimi(_BuiltIn):
    call_format = KimiCalls
    template = TEMPLATES["kimi"]
    answers = (
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
            '{"city": "é"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
            "<|tool_call_end|><|tool_calls_section_end|>",
            calls(weather("é", id="functions.get_weather:0"), now(id="functions.now:1")),
        ),
        (
            "So:<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>"
            '{"a": 1, "b": -2}<|tool_call_end|><|tool_calls_section_end|>',
            calls(add(1, -2, id="functions.add:0"), text="So:"),
        ),
    )


class TestMiniMax(_BuiltIn):
    call_format = MiniMaxCalls
    template = TEMPLATES["minimax"]
    endings = ("</parameter>",)
    answers = (
        (
            '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">São <b></parameter>\n</invoke>\n'
            '<invoke name="now">\n</invoke>\n</minimax:tool_call>',
            calls(weather("São <b>"), NOW),
        ),
        (
            'So:\n<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n'
            '<parameter name="b">-2</parameter>\n</invoke>\n</minimax:tool_call>',
            calls(add(1, -2), text="So:"),
        ),
    )


class TestCommandR(_BuiltIn):
    call_format = CommandRCalls
    template = TEMPLATES["command_r"]
    answers = (
        (
            'Action: ```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": {"city": "```"}\n'
            '    },\n    {\n        "tool_name": "now",\n        "parameters": {}\n    }\n]\n```',
            calls(weather("```"), NOW),
        ),
        (
            'So:\nAction: ```json\n[\n    {\n        "tool_name": "add",\n        "parameters": {"a": 1, "b": -2}\n'
            "    }\n]\n```",
            calls(add(1, -2), text="So:"),
        ),
    )


class TestGemma4(_BuiltIn):
    call_format = Gemma4Calls
    template = TEMPLATES["gemma4"]
    answers = (
        ('<|tool_call>call:get_weather{city:<|"|>a}, b:"<|"|>,unit:<|"|>kelvin<|"|>}<tool_call|><|tool_call>call:now{}'
         "<tool_call|>",
         calls(ToolCall(name="get_weather", arguments={"city": 'a}, b:"', "unit": "kelvin"}), NOW)),
        ("So:<|tool_call>call:add{a:1,b:-2}<tool_call|>", calls(add(1, -2), text="So:")),
    )  # fmt: skip


class TestFunctionGemma(_BuiltIn):
    call_format = FunctionGemmaCalls
    template = TEMPLATES["function_gemma"]
    answers = (
        ("<start_function_call>call:get_weather{city:<escape>a}, b:<escape>}<end_function_call><start_function_call>"
         "call:now{}<end_function_call>",
         calls(weather("a}, b:"), NOW)),
        ("So:<start_function_call>call:add{a:1,b:-2}<end_function_call>", calls(add(1, -2), text="So:")),
    )  # fmt: skip


class TestHarmony(_BuiltIn):
    call_format = HarmonyCalls
    template = TEMPLATES["harmony"]
    answers = (
        ('<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "<|call|>"}<|call|>',
         calls(weather("<|call|>"))),
        ('<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>'
         'commentary to=functions.now <|constrain|>json<|message|>{}<|call|>',
         calls(NOW, NOW)),
        ('So:<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1, "b": -2}<|call|>',
         calls(add(1, -2), text="So:")),
    )  # fmt: skip


class TestCohere(_BuiltIn):
    call_format = CohereCalls
    template = TEMPLATES["cohere"]
    answers = (
        (
            '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "é"}},\n'
            '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
            calls(weather("é", id="0"), now(id="1")),
        ),
        (
            'So:<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "add", "parameters": {"a": 1, "b": -2}}\n]'
            "<|END_ACTION|>",
            calls(add(1, -2, id="0"), text="So:"),
        ),
    )


class TestGranite(_BuiltIn):
    call_format = GraniteCalls
    template = TEMPLATES["granite"]
    answers = (
        ('<|tool_call|>[{"name": "get_weather", "arguments": {"city": "é"}}, {"name": "now", "arguments": {}}]',
         calls(weather("é"), NOW)),
        ('So: <|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": -2}}]', calls(add(1, -2), text="So:")),
    )  # fmt: skip


class TestPhi4(_BuiltIn):
    call_format = Phi4Calls
    template = TEMPLATES["phi4"]
    answers = tuple((f"{text}<|/tool_call|>", read) for text, read in TestGranite.answers)


class TestGoTag(_BuiltIn):
    call_format = GoTagCalls
    template = TEMPLATES["go_tag"]
    rendered = RenderedChat(prompt=(), call_tag="<tool_call>")
    answers = (
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "add"}}\n</tool_call>\n<tool_call>\n'
         '{"name": "now", "arguments": {}}\n</tool_call>',
         calls(weather("add"), NOW)),
        ('So:\n<tool_call>{"name": "add", "arguments": {"a": 1, "b": -2}}\n</tool_call>',
         calls(add(1, -2), text="So:")),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["get_weather", "wetter holen", "a/b"])
def test_the_earliest_name_before_the_arguments_is_called(name: str) -> None:
    """A name is a whole word, or a text with other characters; thousands of tools are no pattern to compile."""
    tools = tuple(Tool(name=one) for one in (name, "now", *map(str, range(3000))))
    parser = GoTagCalls().open(ChatRequest(messages=(), tools=tools), TestGoTag.rendered)
    outputs = [*parser.feed(Delta(text=f'<tool_call>not_now, 5000: {name}, now {{"city": "add"}}')), *parser.finish()]
    assert [(call.name, call.arguments) for output in outputs for call in output.tool_calls] == [
        (name, {"city": "add"})
    ]
