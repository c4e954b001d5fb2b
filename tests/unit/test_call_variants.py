"""What models write beside the usual forms of tool calls: other values and spellings, mistakes, and broken answers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from corral.adapters.answer_parsers.harmony import HarmonyThinking
from corral.core.ports.chat import RenderedChat
from corral.core.requests.messages import Tool, ToolCall
from corral.core.requests.outputs import Delta
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import ChatRequest
from corral.plugins.testing.tool_call_format import TOOLS
from tests.unit.test_template_recognition import FORMATS

_ROUNDS = int(os.environ.get("CORRAL_TEST_EXAMPLES", "8"))

TYPED = Tool(
    name="files.put-all",
    parameters={
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "share": {"type": ["number", "null"]},
            "sure": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"$ref": "#/$defs/place"},
            "kind": {"enum": ["a", "b", 3]},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "any": {},
        },
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}}},
    },
)
ALL_TOOLS = (*TOOLS, TYPED)
RENDERED = RenderedChat(prompt=(), call_tag="<tool_call>")
BARE = RenderedChat(prompt=())

Read = tuple[str, list[ToolCall], list[str]]


def read(name: str, deltas: Iterable[str], rendered: RenderedChat = RENDERED) -> Read:
    """Visible text, calls and warnings."""
    parser = FORMATS[name].open(ChatRequest(messages=(), tools=ALL_TOOLS), rendered)
    heard = [one for text in deltas for one in parser.feed(Delta(text=text))] + list(parser.finish())
    return (
        "".join(one.text for one in heard),
        [call for one in heard for call in one.tool_calls],
        [warning for one in heard for warning in one.warnings],
    )


def put(**arguments: Any) -> ToolCall:
    return ToolCall(name=TYPED.name, arguments=arguments)


def xml(**values: str) -> str:
    inner = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    return f"<tool_call>\n<function={TYPED.name}>\n{inner}</function>\n</tool_call>"


def glm(**values: str) -> str:
    inner = "".join(f"<arg_key>{name}</arg_key><arg_value>{value}</arg_value>" for name, value in values.items())
    return f"<tool_call>{TYPED.name}{inner}</tool_call>"


@pytest.mark.parametrize(("name", "write"), [("qwen3_coder", xml), ("glm", glm)])
@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "12", "12"),
        ("text", "null", "null"),
        ("text", '{"a": "</b>"}', '{"a": "</b>"}'),
        ("text", " two\n\nlines ", " two\n\nlines "),
        ("text", "", ""),
        ("count", "12", 12),
        ("count", "12.0", 12),
        ("count", "many", "many"),
        ("share", "0.5", 0.5),
        ("share", "3", 3),
        ("share", "None", None),
        ("sure", "True", True),
        ("sure", "false", False),
        ("tags", '["a", "b"]', ["a", "b"]),
        ("tags", "a, b", "a, b"),
        ("tags", "['a']", "['a']"),
        ("tags", '["</parameter>\\"", "</arg_value>"]', ['</parameter>"', "</arg_value>"]),
        ("place", '{"x": 1e2}', {"x": 100.0}),
        ("kind", "a", "a"),
        ("kind", "3", 3),
        ("either", "7", 7),
        ("either", "seven", "seven"),
        ("any", "true", True),
        ("any", "07", "07"),
        ("unknown", "[1]", [1]),
    ],
)
def test_texts_get_the_types_of_the_schema(name: str, write: Any, key: str, text: str, value: Any) -> None:
    """A value that does not fit stays text."""
    assert read(name, [write(**{key: text})]) == ("", [put(**{key: value})], [])


@pytest.mark.parametrize(
    ("name", "text", "call"),
    [
        ("pythonic", "files.put-all(text='it\\'s \"é\\u00e9\\ud83e\\udd94\"', tags=('a', \"b\",), share=-1.5e3)",
         put(text='it\'s "éé🦔"', tags=["a", "b"], share=-1500.0)),
        ("pythonic", 'files.put-all( sure = True , share=None, place={"x": 1, \'y\': [{}]}, count=1_000 )',
         put(sure=True, share=None, place={"x": 1, "y": [{}]}, count=1000)),
        ("pythonic", 'files.put-all(text="""a "quoted"\nline""", any=null)', put(text='a "quoted"\nline', any=None)),
        ("gemma4", 'call:files.put-all{text:<|"|>}],<tool_call|>\\n<|"|>,tags:[<|"|>a<|"|>,"b"],place:{x:1.5,y:null}}',
         put(text="}],<tool_call|>\\n", tags=["a", "b"], place={"x": 1.5, "y": None})),
        ("gemma4", "call:files.put-all{text:bare,count: 3 , sure:false}", put(text="bare", count=3, sure=False)),
    ],
)  # fmt: skip
def test_values_that_are_no_json(name: str, text: str, call: ToolCall) -> None:
    """Python's literals, and Gemma's objects, with their ways of quoting."""
    whole = f"[{text}]" if name == "pythonic" else f"<|tool_call>{text}<tool_call|>"
    assert read(name, [whole]) == ("", [call], [])


ADD = ToolCall(name="add", arguments={"a": 1, "b": 2})
NOW = ToolCall(name="now")


@pytest.mark.parametrize(
    ("name", "text", "visible", "calls"),
    [
        ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2}"}</tool_call>', "", [ADD]),
        ("hermes", '<tool_call>{"function": {"name": "now"}, "type": "function"}</tool_call>', "", [NOW]),
        ("hermes", '<tool_call>\n{"name": "now"}\n{"name": "now", "arguments": null}\n</tool_call>', "", [NOW, NOW]),
        ("hermes", '<tool_call>{"name": "files.put-all", "arguments": {"text": "a\nb\tc"}}', "", [put(text="a\nb\tc")]),
        ("hermes", 'A\n<tool_call>{"name":"now"}</tool_call>\n\nB\n<tool_call>{"name":"now"}</tool_call>\n C',
         "A\n\nB\n C", [NOW, NOW]),
        ("hermes", '  \n<tool_call>{"name":"now"}</tool_call>\n\n', "", [NOW]),
        ("qwen3_coder", "<function=now></function>", "", [NOW]),
        ("qwen3_coder", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "", [NOW]),
        ("qwen3_coder", "<tool_call><function=now></function><function=now></function></tool_call>", "", [NOW, NOW]),
        ("glm", "<tool_call>now</tool_call>", "", [NOW]),
        ("llama3_json", '{"type": "function", "name": "add", "parameters": {"a": 1, "b": 2}}', "", [ADD]),
        ("llama3_json", ' {"name": "now", "parameters": {}};{"name": "now", "parameters": {}}', "", [NOW, NOW]),
        ("llama3_json", 'So {"name": "now", "parameters": {}}', 'So {"name": "now", "parameters": {}}', []),
        ("llama3_json", '{"answer": {"name": "now"}}', '{"answer": {"name": "now"}}', []),
        ("llama3_json", '{"name": "Ada", "age": 36} is she.', '{"name": "Ada", "age": 36} is she.', []),
        ("llama3_json", "{}", "{}", []),
        ("pythonic", "[1, 2, 3]", "[1, 2, 3]", []),
        ("pythonic", "[link](https://example.org)", "[link](https://example.org)", []),
        ("pythonic", "See [now()]", "See [now()]", []),
        ("pythonic", "<|python_start|>[now()]<|python_end|> Done.", " Done.".lstrip(), [NOW]),
        ("lfm2", '<|tool_call_start|>[{"name": "now", "arguments": {}}]<|tool_call_end|>', "", [NOW]),
        ("phi4", '<|tool_call|>{"name": "now", "arguments": {}}<|/tool_call|>', "", [NOW]),
        ("tool_code", "```tool_code\nprint(add(a=1, b=2))\n```", "", [ADD]),
        ("tool_code", "```python\nnow()\n```", "```python\nnow()\n```", []),
        ("mistral", '[TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "a"}]', "",
         [ToolCall(name="now", id="a")]),
        ("mistral", '[TOOL_CALLS]add{"a": 1, "b": 2}', "", [ADD]),
        ("mistral_list", '[TOOL_CALLS]{"name": "now"}, {"name": "now"}', "", [NOW, NOW]),
        ("deepseek", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>", "", [NOW]),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}", "", [NOW]),
        ("harmony", " to=functions.files_put_all<|channel|>commentary json<|message|>{}<|call|>", "", [put()]),
        ("harmony", '<|channel|>commentary to=functions.add<|message|>{"a": 1, "b": 2}', "", [ADD]),
        ("granite", '<|tool_call|> [{"name": "now", "arguments": {}}]', "", [NOW]),
        ("phi4", 'functools[{"name": "now", "arguments": {}}]', "", [NOW]),
        ("cohere", '<|START_ACTION|>[{"tool_name": "now", "parameters": {}}]<|END_ACTION|>', "", [NOW]),
        ("go_tag", '<tool_call>now {}</tool_call>', "", [NOW]),
        ("go_tag", '<tool_call>{"add": {"a": 1, "b": 2}}', "", [ADD]),
        ("go_tag", '<tool_call>add {"a": 1, "b": 2} Done.', " Done.".lstrip(), [ADD]),
        ("go_tag", '<tool_call>[{"function": {"name": "now", "arguments": {}}}]', "", [NOW]),
    ],
)  # fmt: skip
def test_other_spellings(name: str, text: str, visible: str, calls: list[ToolCall]) -> None:
    """They are read too, and what only looks like a call is text, without a warning."""
    assert read(name, [text]) == (visible, calls, [])


@pytest.mark.parametrize(
    ("tag", "text", "visible", "calls"),
    [
        (None, '{"name": "add", "arguments": {"a": 1, "b": 2}}', "", [ADD]),
        (None, 'So {"name": "now", "arguments": {}}', 'So {"name": "now", "arguments": {}}', []),
        ("[", ' [{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]', "", [NOW, NOW]),
        ("[", "So [1]", "So [1]", []),
        ("[TOOL_CALLS]", 'So [TOOL_CALLS] [{"name": "now", "arguments": {}}]', "So", [NOW]),
    ],
)
def test_the_tag_of_a_go_template(tag: str | None, text: str, visible: str, calls: list[ToolCall]) -> None:
    """A brace or a bracket must begin the answer; other tags may stand anywhere."""
    assert read("go_tag", [text], RenderedChat(prompt=(), call_tag=tag)) == (visible, calls, [])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', "arguments are not"),
        ("hermes", '<tool_call>{"name": "now" oops!}</tool_call>', "not valid JSON"),
        ("hermes", '<tool_call>{"name": 1}</tool_call>', "names no tool"),
        ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 1e999}}</tool_call>', "not valid JSON"),
        ("hermes", '<tool_call>{"name": "now", "arguments": {"a": "\\ud800"}}</tool_call>', "not valid JSON"),
        ("hermes", f"<tool_call>{'[' * 100}", "nested"),
        ("hermes", f'<tool_call>{{"name": "{"x" * 300_000}"}}</tool_call>', "longer"),
        ("hermes", '<tool_call>{"name": "now"', "ended inside"),
        ("hermes", "<tool_call>none", "no JSON"),
        ("qwen3_coder", "<tool_call><function=now>text</function></tool_call>", "expected"),
        ("qwen3_coder", "<function=rm><parameter=x>1</parameter></function>", "no tool"),
        ("glm", "<tool_call>now<arg_key>a</arg_key></tool_call>", "expected"),
        ("llama3_json", "<|python_tag|>print(1)", "no JSON"),
        ("pythonic", "[now(1)]", "expected"),
        ("pythonic", "[add(a=1, b=c)]", "not a value"),
        ("pythonic", f"[add(a={'[' * 100})]", "nested"),
        ("mistral", "[TOOL_CALLS]now[ARGS]none", "no JSON"),
        ("deepseek", "<｜tool▁calls▁begin｜>none", "expected"),
        ("gemma4", "<|tool_call>call:now{:1}<tool_call|>", "missing"),
        ("cohere", "<|START_ACTION|>[]<|END_ACTION|>", "empty"),
        ("go_tag", '<tool_call>{"city": "Rome"}</tool_call>', "names no tool"),
    ],
)
def test_what_is_no_call_stays_text(name: str, text: str, reason: str) -> None:
    """All of it is visible, and a warning says why."""
    visible, calls, [warning] = read(name, [text])
    assert (visible, calls) == (text, [])
    assert reason in warning


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_any_text_in_any_pieces(name: str) -> None:
    """However marks, pieces of calls and other texts follow each other, the division does not matter.

    Without calls, no character is lost.
    """
    parts = [*FORMATS[name].preserved_tokens(RENDERED), *getattr(FORMATS[name], "marks", ())]
    parts += [
        '{"name": "now", "arguments": {}}',
        "now",
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        ":",
        ",",
        "(",
        ")",
        "=",
        "\n",
        " ",
    ]
    parts += ["call:", "<function=now>", "</function>", "[ARGS]", "é🦔", "text ", "<", "```json\n", "json", "\ud7ff"]
    for seed in range(_ROUNDS):
        chance = random.Random(seed)
        text = "".join(chance.choices(parts, k=chance.randrange(1, 60)))
        whole = read(name, [text])
        if not whole[1]:
            assert whole[0] == text
        for most in (1, 3, 9):
            assert read(name, pieces(text, chance, most)) == whole, text


def pieces(text: str, chance: random.Random, most: int) -> Sequence[str]:
    cuts, at = [], 0
    while at < len(text):
        size = chance.randint(1, most)
        cuts.append(text[at : at + size])
        at += size
    return cuts


def heard(prompt: str, text: str, *, tools: bool = True) -> tuple[str, str, list[ToolCall]]:
    """An answer that goes through both of harmony's parsers: thinking, visible text, calls."""
    request = ChatRequest(messages=(), tools=ALL_TOOLS)
    rendered = RenderedChat(prompt=(TextPart(text=prompt, parse_special=True),))
    thinking = HarmonyThinking().open(request, rendered)
    deltas = [one for char in text for one in thinking.feed(Delta(text=char))] + list(thinking.finish())
    if tools:
        parser = FORMATS["harmony"].open(request, rendered)
        deltas = [one for delta in deltas for one in parser.feed(delta)] + list(parser.finish())
    return (
        "".join(one.thinking for one in deltas),
        "".join(one.text for one in deltas),
        [call for one in deltas for call in one.tool_calls],
    )


START = "<|start|>assistant"
CALL = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1, "b": 2}<|call|>'


@pytest.mark.parametrize(
    ("prompt", "text", "meant"),
    [
        (START, f"<|channel|>analysis<|message|>Hm.<|end|>{START}<|channel|>final<|message|>Yes.<|return|>",
         ("Hm.", "Yes.", [])),
        (START, f"<|channel|>analysis<|message|>Hm.<|end|>{START}{CALL}", ("Hm.", "", [ADD])),
        (START, f"{CALL}{START}{CALL}", ("", "", [ADD, ADD])),
        (START, f"<|channel|>commentary<|message|>Let me see.<|end|>{START}{CALL}", ("", "Let me see.", [ADD])),
        (START, ' to=functions.add<|channel|>commentary json<|message|>{"a": 1, "b": 2}<|call|>', ("", "", [ADD])),
        (f"{START}<|channel|>final<|message|>", "Yes.", ("", "Yes.", [])),
        (f"{START}<|channel|>analysis<|message|>", "Hm.<|end|>{}", ("Hm.", "{}", [])),
        (START, "A plain text.", ("", "A plain text.", [])),
        (START, "<|channel|>analysis", ("", "<|channel|>analysis", [])),
    ],
)  # fmt: skip
def test_channels_of_harmony(prompt: str, text: str, meant: tuple[str, str, list[ToolCall]]) -> None:
    """Analysis is thinking, final and commentary are the answer, and messages to functions are calls."""
    assert heard(prompt, text) == meant


def test_a_call_without_tools_stays_text() -> None:
    """A message to a function that the request does not have is visible as it is."""
    assert heard(START, CALL, tools=False) == ("", CALL, [])
