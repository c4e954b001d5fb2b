"""The built-in formats of answers against the contracts of their ports: what each of them reads and writes."""

from __future__ import annotations

from typing import Any

import pytest

from corral.adapters.answer_parsers.cohere import CohereCalls
from corral.adapters.answer_parsers.deepseek import DeepSeekCalls, DeepSeekV31Calls
from corral.adapters.answer_parsers.gemma import FunctionGemmaCalls, Gemma4Calls
from corral.adapters.answer_parsers.glm import GlmCalls
from corral.adapters.answer_parsers.go_tag import GoTagCalls
from corral.adapters.answer_parsers.granite import GraniteCalls, Phi4Calls
from corral.adapters.answer_parsers.harmony import HarmonyParser
from corral.adapters.answer_parsers.harmony_calls import HarmonyCalls
from corral.adapters.answer_parsers.llama3_json import Llama3JsonCalls
from corral.adapters.answer_parsers.mistral import MistralCalls, MistralListCalls
from corral.adapters.answer_parsers.pythonic import Lfm2Calls, PythonicCalls
from corral.adapters.answer_parsers.qwen3_coder import Qwen3CoderCalls, SeedCalls
from corral.adapters.answer_parsers.think_tags import ThinkTagParser
from corral.adapters.answer_parsers.tool_code import ToolCodeCalls
from corral.core.ports.chat import RenderedChat
from corral.core.requests.messages import ToolCall
from corral.core.requests.think_tags import ThinkTags
from corral.plugins.testing.answer_parser import AnswerParserContract, MakeParser
from corral.plugins.testing.tool_call_format import MakeCallFormat, ToolCallFormatContract
from tests.unit.call_templates import TEMPLATES

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


class TestQwen3Coder(ToolCallFormatContract):
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

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return Qwen3CoderCalls


class TestSeed(ToolCallFormatContract):
    template = TEMPLATES["seed"]
    endings = ("\n</parameter>",)
    answers = (
        (
            "<seed:tool_call>\n<function=get_weather>\n<parameter=city>\na\n\n b\n</parameter>\n</function>\n"
            "</seed:tool_call>\n<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>",
            calls(weather("a\n\n b"), NOW),
        ),
        (
            "So:\n\n<seed:tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n-2\n</parameter>"
            "\n</function>\n</seed:tool_call>",
            calls(add(1, -2), text="So:"),
        ),
    )

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return SeedCalls


class TestGlm(ToolCallFormatContract):
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

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return GlmCalls


class TestLlama3Json(ToolCallFormatContract):
    template = TEMPLATES["llama3_json"]
    answers = (
        ('{"name": "get_weather", "parameters": {"city": "a}\\"{"}}', calls(weather('a}"{'))),
        ('<|python_tag|>{"name": "now", "parameters": {}}; {"name": "add", "parameters": {"a": 1, "b": 2}}',
         calls(NOW, add(1, 2))),
        ('So: <|python_tag|>{"name": "now", "parameters": {}}', calls(NOW, text="So:")),
    )  # fmt: skip

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return Llama3JsonCalls


class TestPythonic(ToolCallFormatContract):
    template = TEMPLATES["pythonic"]
    answers = (
        ('[get_weather(city="a)]\\"\\n", unit="kelvin"), now()]',
         calls(ToolCall(name="get_weather", arguments={"city": 'a)]"\n', "unit": "kelvin"}), NOW)),
        ("[add(a=1, b=-2)]\nThere.", calls(add(1, -2), text="There.")),
    )  # fmt: skip

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return PythonicCalls


class TestLfm2(ToolCallFormatContract):
    template = TEMPLATES["lfm2"]
    answers = (
        ('<|tool_call_start|>[get_weather(city="é"), now()]<|tool_call_end|>', calls(weather("é"), NOW)),
        ("So: <|tool_call_start|>[add(a=1, b=-2)]<|tool_call_end|>", calls(add(1, -2), text="So:")),
    )

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return Lfm2Calls


class TestToolCode(ToolCallFormatContract):
    template = TEMPLATES["tool_code"]
    answers = (
        ('```tool_code\nget_weather(city="é")\nnow()\n```', calls(weather("é"), NOW)),
        ("So:\n```tool_code\nadd(a=1, b=-2)\n```", calls(add(1, -2), text="So:")),
    )

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return ToolCodeCalls


class TestMistralList(ToolCallFormatContract):
    template = TEMPLATES["mistral_list"]
    answers = (
        ('[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "[ARGS]"}}, {"name": "now", "arguments": {}}]',
         calls(weather("[ARGS]"), NOW)),
        ('So: [TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": -2}}]', calls(add(1, -2), text="So:")),
    )  # fmt: skip

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return MistralListCalls


class TestMistral(ToolCallFormatContract):
    template = TEMPLATES["mistral"]
    answers = (
        ('[TOOL_CALLS]get_weather[ARGS]{"city": "[ARGS]{"}[TOOL_CALLS]now[CALL_ID]x7GhTq2Lp[ARGS]{}',
         calls(weather("[ARGS]{"), now(id="x7GhTq2Lp"))),
        ('So: [TOOL_CALLS]add[ARGS]{"a": 1, "b": -2}', calls(add(1, -2), text="So:")),
    )  # fmt: skip

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return MistralCalls


class TestDeepSeek(ToolCallFormatContract):
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

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return DeepSeekCalls


class TestDeepSeekV31(ToolCallFormatContract):
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

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return DeepSeekV31Calls


class TestGemma4(ToolCallFormatContract):
    template = TEMPLATES["gemma4"]
    answers = (
        ('<|tool_call>call:get_weather{city:<|"|>a}, b:"<|"|>,unit:<|"|>kelvin<|"|>}<tool_call|><|tool_call>call:now{}'
         "<tool_call|>",
         calls(ToolCall(name="get_weather", arguments={"city": 'a}, b:"', "unit": "kelvin"}), NOW)),
        ("So:<|tool_call>call:add{a:1,b:-2}<tool_call|>", calls(add(1, -2), text="So:")),
    )  # fmt: skip

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return Gemma4Calls


class TestFunctionGemma(ToolCallFormatContract):
    template = TEMPLATES["function_gemma"]
    answers = (
        ("<start_function_call>call:get_weather{city:<escape>a}, b:<escape>}<end_function_call><start_function_call>"
         "call:now{}<end_function_call>",
         calls(weather("a}, b:"), NOW)),
        ("So:<start_function_call>call:add{a:1,b:-2}<end_function_call>", calls(add(1, -2), text="So:")),
    )  # fmt: skip

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return FunctionGemmaCalls


class TestHarmony(ToolCallFormatContract):
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

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return HarmonyCalls


class TestCohere(ToolCallFormatContract):
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

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return CohereCalls


class TestGranite(ToolCallFormatContract):
    template = TEMPLATES["granite"]
    answers = (
        ('<|tool_call|>[{"name": "get_weather", "arguments": {"city": "é"}}, {"name": "now", "arguments": {}}]',
         calls(weather("é"), NOW)),
        ('So: <|tool_call|>[{"name": "add", "arguments": {"a": 1, "b": -2}}]', calls(add(1, -2), text="So:")),
    )  # fmt: skip

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return GraniteCalls


class TestPhi4(ToolCallFormatContract):
    template = TEMPLATES["phi4"]
    answers = tuple((f"{text}<|/tool_call|>", read) for text, read in TestGranite.answers)

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return Phi4Calls


class TestGoTag(ToolCallFormatContract):
    template = TEMPLATES["go_tag"]
    rendered = RenderedChat(prompt=(), call_tag="<tool_call>")
    answers = (
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "add"}}\n</tool_call>\n<tool_call>\n'
         '{"name": "now", "arguments": {}}\n</tool_call>',
         calls(weather("add"), NOW)),
        ('So:\n<tool_call>{"name": "add", "arguments": {"a": 1, "b": -2}}\n</tool_call>',
         calls(add(1, -2), text="So:")),
    )  # fmt: skip

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return GoTagCalls
