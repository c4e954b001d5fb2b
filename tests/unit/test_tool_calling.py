"""Tools, from the call to the answer: who may call what, what the prompt says, and what holds the calls to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from corral.adapters.answer_parsers.hermes import HermesCalls
from corral.adapters.answer_parsers.qwen3_coder import Qwen3CoderCalls
from corral.adapters.constraints.control_literals import with_control_tokens
from corral.adapters.constraints.embedded_schemas import with_enforceable_schemas
from corral.adapters.constraints.masks import GrammarMasks
from corral.adapters.runners.request_masks import RequestMasks
from corral.core.errors import InvalidRequest, Unsupported
from corral.core.models.model import RemoteModel
from corral.core.ports.chat import RenderedChat
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import RequestMask, Vocabulary
from corral.core.requests.call_grammars import calls_after, json_text, literal
from corral.core.requests.call_ids import with_call_ids
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.outputs import Delta, Finished, Started
from corral.core.requests.prompts import prompt_text
from corral.core.requests.requests import ChatRequest, CompletionRequest, Constraint
from corral.core.requests.tool_choice import ToolChoice, read_tool_choice
from tests.unit.test_generation import _RECORD, Bench

USER = Message(role="user", content="q")
SCHEMA: Mapping[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = Tool(name="add", parameters=SCHEMA)
STRICT = Tool(name="add", parameters=SCHEMA, strict=True)
OTHER = Tool(name="now")
TOOL_2 = Tool(name="sub", parameters=SCHEMA)
LARGE = Tool(name="add", parameters={**SCHEMA, "description": "x" * 20_000})
HERMES = "{{ messages[-1].content }}{% for t in tools or [] %}|{{ t.function.name }}{% endfor %}"
HERMES += "{% if false %}<tool_call></tool_call>{% endif %}"
REQUIRED = ToolChoice(mode="required")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def bench(template: str = HERMES, features: Sequence[str] = ("constraints",), **more: Any) -> Bench:
    return Bench(template=template, capabilities=("completion", "tools"), features=tuple(features), **more)


def ask(bench: Bench, *tools: Tool, **fields: Any) -> CompletionRequest:
    bench.chat(ChatCall(model="tiny", messages=(USER,), tools=tools, **fields))
    return bench.request()


# ── who may call what ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_tools_are_for_models_that_have_them() -> None:
    """Others refuse them by their full name, before anything is loaded."""
    plain = Bench()
    with pytest.raises(Unsupported, match=r"^registry\.ollama\.ai/library/tiny:latest does not support tools$"):
        ask(plain, TOOL)
    assert plain.scheduler.asked == []
    assert ask(plain, TOOL, tool_choice=ToolChoice(mode="none")).constraint is None


@pytest.mark.parametrize(
    ("tools", "fields", "said"),
    [
        ((), {"tool_choice": REQUIRED}, "needs tools"),
        ((TOOL,), {"tool_choice": ToolChoice(mode="required", name="sub")}, "there is no tool 'sub'"),
        ((TOOL,), {"tool_choice": REQUIRED, "constraint": Constraint(kind="regex", source="a")}, "exclude each other"),
        ((Tool(name="f", parameters={"type": "array"}, strict=True),), {}, "parameters of 'f' are not an object"),
    ],
)
def test_a_choice_that_cannot_be_met(tools: Sequence[Tool], fields: dict[str, Any], said: str) -> None:
    """It is refused before anything is loaded."""
    able = bench()
    with pytest.raises(InvalidRequest, match=said):
        ask(able, *tools, **fields)
    assert able.scheduler.asked == []


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        (None, ToolChoice()),
        ("", ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(mode="none")),
        ("required", REQUIRED),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice(mode="required", name="f")),
        ({"function": {"name": "f"}}, ToolChoice(mode="required", name="f")),
        (REQUIRED, REQUIRED),
    ],
)
def test_the_forms_of_a_choice(value: Any, choice: ToolChoice) -> None:
    """They are those of OpenAI's API."""
    assert read_tool_choice(value) == choice


@pytest.mark.parametrize("value", ["any", 1, [], {}, {"type": "tool"}, {"function": {"name": ""}}, {"function": 1}])
def test_a_malformed_choice(value: Any) -> None:
    """The error shows it, and what is expected."""
    with pytest.raises(InvalidRequest, match=r'invalid tool_choice: .*; expected "auto", "none", "required" or'):
        read_tool_choice(value)


def test_none_means_that_the_template_gets_no_tools() -> None:
    """Nothing in the prompt or in the answer is a call then."""
    able = bench()
    able.model.answer = [CALL]
    assert prompt_text(ask(able, TOOL, OTHER).prompt) == "q|add|now"
    assert prompt_text(ask(able, TOOL, tool_choice=ToolChoice(mode="none")).prompt) == "q"
    outputs = able.chat(ChatCall(model="tiny", messages=(USER,), tools=(TOOL,), tool_choice=ToolChoice(mode="none")))
    assert [one.text for one in outputs if isinstance(one, Delta)] == [CALL]


def test_a_model_elsewhere_gets_what_was_asked() -> None:
    """Its calls are numbered as those of other models are."""
    record = type(_RECORD)(
        name=_RECORD.name, digest=_RECORD.digest, size_bytes=1, modified_at=0, remote=RemoteModel(host="h", model="m")
    )
    far = Bench(record=record, tasks=("chat",), capabilities=("completion", "tools"))

    class Calling(type(far.model)):  # type: ignore[misc]
        async def run(self, request: Any) -> Any:
            self.requests.append(request)
            yield Delta(tool_calls=(ToolCall(name="add", index=7), ToolCall(name="add", id="x")))

    far.model.__class__ = Calling
    [delta] = far.chat(ChatCall(model="tiny", messages=(USER,), tools=(STRICT,), tool_choice=REQUIRED))
    request = far.model.requests[0]
    assert isinstance(request, ChatRequest)
    assert (request.tools, request.tool_choice) == ((STRICT,), REQUIRED)
    assert isinstance(delta, Delta)
    assert [call.index for call in delta.tool_calls] == [0, 1]
    assert (delta.tool_calls[0].id or "").startswith("call_")
    assert delta.tool_calls[1].id == "x"


# ── what holds the calls ──────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_held_unless_asked_for() -> None:
    """The parser still needs to see the marks."""
    request = ask(bench(), TOOL)
    assert request.constraint is None
    assert request.preserved_tokens == {"<tool_call>", "</tool_call>"}


def masks(*extra: bytes) -> tuple[GrammarMasks, Vocabulary]:
    pieces = (*(bytes([byte]) for byte in range(256)), b"<end>", *extra)
    control = frozenset(range(256, len(pieces)))
    vocabulary = Vocabulary(pieces=pieces, control=control, ends=frozenset({256}))
    return GrammarMasks(vocabulary), vocabulary


def follows(mask: RequestMask, ids: Sequence[int]) -> bool:
    for token_id in (*ids, 256):
        if not (mask.allowed() or b"\xff" * 40)[token_id >> 3] >> (token_id & 7) & 1:
            return False
        if token_id != 256:
            mask.accept(token_id)
    return True


@pytest.mark.parametrize(
    ("tools", "choice", "text", "possible"),
    [
        ((TOOL,), REQUIRED, CALL, True),
        ((TOOL,), REQUIRED, f"{CALL}\n{CALL}", True),
        ((TOOL,), REQUIRED, f"So: {CALL}", False),
        ((TOOL,), REQUIRED, CALL.replace("1", '"x"'), False),
        ((LARGE,), REQUIRED, CALL.replace("1", '"x"'), True),
        ((STRICT, TOOL_2), ToolChoice(), CALL.replace("add", "sub").replace("1", '"x"'), True),
        ((STRICT,), REQUIRED, CALL.replace("1", '"x"'), False),
        ((STRICT, OTHER), REQUIRED, CALL.replace("add", "now").replace("1", '"x"'), True),
        ((TOOL, OTHER), ToolChoice(mode="required", name="now"), CALL, False),
        ((TOOL, OTHER), ToolChoice(mode="required", name="add"), CALL, True),
        ((STRICT,), ToolChoice(), f"So: {CALL} and", True),
        ((STRICT,), ToolChoice(), "So.", True),
        ((STRICT,), ToolChoice(), f"So: {CALL.replace('1', 'null')}", False),
        ((STRICT,), ToolChoice(), f"{CALL}{CALL.replace('add', 'sub')}", False),
    ],
)
def test_calls_are_held(tools: Sequence[Tool], choice: ToolChoice, text: str, possible: bool) -> None:
    """A required call begins with the answer; in a free one, calls are held from their mark on.

    Arguments fit their schema if that is asked for, and in a required call also if it is not, unless it is large.
    """
    constraint = ask(bench(), *tools, tool_choice=choice).constraint
    assert constraint is not None
    assert constraint.subject == "tools"
    made, _ = masks()
    assert follows(made(constraint), text.encode()) is possible


def test_a_format_goes_before_tools() -> None:
    """The whole answer has it, and there is no place for a call, as in Ollama."""
    constraint = Constraint(kind="regex", source="a")
    assert ask(bench(), TOOL, constraint=constraint).constraint == constraint


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("[1, 2]", True),
        (CALL, True),
        (f"{CALL}\n{CALL}", True),
        (CALL.replace("1", '"x"'), False),
        (CALL.replace("add", "now"), True),
        (f"[1]{CALL}", False),
        (f"{CALL}[1]", False),
        ("So.", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("marks", [(), (b"<tool_call>", b"</tool_call>")])
def test_a_format_beside_strict_tools(text: str, possible: bool, marks: Sequence[bytes]) -> None:
    """The answer has the format, or consists of calls whose arguments fit their schemas."""
    constraint = Constraint(kind="json_schema", source='{"type": "array", "items": {"type": "integer"}}')
    mask = mask_of(ask(bench(), STRICT, OTHER, constraint=constraint), *marks)
    numbers = {mark: 257 + number for number, mark in enumerate(marks)}
    parts = [part.encode() for part in re.split("(</?tool_call>)", text)]
    assert follows(mask, [one for part in parts for one in ([numbers[part]] if part in numbers else part)]) is possible


def test_what_a_format_and_strict_tools_cannot_enforce() -> None:
    """Both say so, once each."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    constraint = Constraint(kind="json_schema", source=json.dumps(schema))
    mask = mask_of(ask(bench(), Tool(name="f", parameters=schema, strict=True), constraint=constraint))
    assert [one.partition(":")[0] for one in mask.ignored] == ["format", "tools"]


SAY = Tool(name="say", parameters={"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]})


@pytest.mark.parametrize("most", [100, 150, 400])
def test_a_required_call_is_complete_within_the_limit(most: int) -> None:
    """A model that would talk on and on in an argument, and then call again, is led to the end of the call."""
    mask = mask_of(ask(bench(), SAY, tool_choice=REQUIRED))
    mask.limit(most)
    said = b""
    while True:
        token = next((one for one in (*(b"a" if len(said) < most // 2 else b'"'), 10) if has(mask, one)), None)
        token = next(one for one in range(256, -1, -1) if has(mask, one)) if token is None else token
        if token == 256:
            break
        mask.accept(token)
        said += bytes([token])
    assert len(said) < most
    parser = HermesCalls().open(ChatRequest(messages=(), tools=(SAY,)), RenderedChat(prompt=()))
    heard = [*parser.feed(Delta(text=said.decode())), *parser.finish()]
    assert [call.name for one in heard for call in one.tool_calls]
    assert not [one for one in heard if one.text or one.warnings]


def test_a_call_whose_end_is_not_known_is_left_alone() -> None:
    """Texts without quotes may have anything in them: nothing is forbidden near the limit either."""
    grammar = Qwen3CoderCalls().call_grammar((SAY,), RenderedChat(prompt=()), required=True)
    free, limited = (masks()[0](Constraint(kind="lark", source=grammar, complete=one)) for one in (False, True))
    limited.limit(120)
    for token in b"<tool_call>\n<function=say>\n<parameter=text>\n" + b"a" * 100:
        assert free.allowed() == limited.allowed()
        free.accept(token)
        limited.accept(token)


def has(mask: RequestMask, token_id: int) -> bool:
    return bool((mask.allowed() or b"")[token_id >> 3] >> (token_id & 7) & 1)


def mask_of(request: CompletionRequest, *extra: bytes) -> RequestMask:
    """The mask that a runner makes, for an engine with this vocabulary."""
    tokenizer = SimpleNamespace(vocabulary=lambda: masks(*extra)[1])
    info = ModelInfo(tasks=frozenset({"completion"}), features=frozenset({"constraints"}))
    engine: Any = SimpleNamespace(info=info, tokenizer=tokenizer)
    mask = RequestMasks(engine).mask(request)
    assert mask is not None
    return mask


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"features": ()}, "this model's engine does not support constraints"),
        ({"template": "{{ tools }}"}, "the way in which this model writes calls is unknown"),
    ],
)
def test_a_call_that_cannot_be_required(model: dict[str, Any], said: str) -> None:
    """It is refused; that arguments are not held is said in the answer."""
    with pytest.raises(Unsupported, match=said):
        ask(bench(**model), TOOL, tool_choice=REQUIRED)
    unable = bench(**model)
    started = unable.chat(ChatCall(model="tiny", messages=(USER,), tools=(STRICT,)))[0]
    assert isinstance(started, Started)
    assert started.ignored_options == ("tools: strict",)
    assert unable.request().constraint is None


def test_calls_that_nobody_can_read() -> None:
    """They stay in the text, with a warning in the answer."""
    strange = bench(template="{{ tools }}")
    strange.model.answer = [CALL]
    *_, delta, finished = strange.chat(ChatCall(model="tiny", messages=(USER,), tools=(TOOL,)))
    assert isinstance(delta, Delta)
    assert isinstance(finished, Finished)
    assert delta.text == CALL
    [warning] = finished.warnings
    assert warning.endswith("so they stay in the text")


def test_marks_that_are_control_tokens() -> None:
    """They are held as such, since a model never spells them."""
    made, vocabulary = masks(b"[CALLS]", b"[/CALLS]")
    rule = f"call: {json_text({'type': 'integer'})} {literal('[/CALLS]')}"
    for required, before, possible in ((True, b"", True), (True, b"x", False), (False, b"x", True), (False, b"", True)):
        grammar = calls_after("[CALLS]", rule, required=required)
        grammar = with_control_tokens(grammar, ["[CALLS]", "[/CALLS]", "[NONE]"], vocabulary)
        assert follows(made(Constraint(kind="lark", source=grammar)), [*before, 257, *b"12", 258]) is possible
        assert not follows(made(Constraint(kind="lark", source=grammar)), [*before, 257, *b"x"])
    assert with_control_tokens("start: A", ["[NONE]"], vocabulary) == "start: A"


def test_schemas_inside_a_grammar() -> None:
    """They mean what they mean as a format; what only looks like one, in a text, an expression or a comment, stays."""
    schema = '{"properties": {"a": {}}}'
    others = f'start: "%json {schema}" /%json {schema}/ // %json {schema}\n'
    assert with_enforceable_schemas(others) == others
    made, _ = masks()
    mask = made(Constraint(kind="lark", source=f'start: "=" %json {schema} "."'))
    assert not follows(mask, b'={"b": 1}.')
    assert follows(made(Constraint(kind="lark", source=f'start: "=" %json {schema} "."')), b'={"a": 1}.')
    with pytest.raises(InvalidRequest, match="cannot be used"):
        made(Constraint(kind="lark", source="start: %json {no}"))


def test_a_schema_that_cannot_be_used_is_the_tools() -> None:
    """The error says so, not that a format is wrong; what cannot be enforced is among the options without effect."""
    made, _ = masks()

    def constraint(schema: Mapping[str, Any]) -> Constraint:
        found = ask(bench(), Tool(name="f", parameters=schema, strict=True), tool_choice=REQUIRED).constraint
        assert found is not None
        return found

    with pytest.raises(InvalidRequest, match=r"^the grammar of the tools' calls cannot be used: "):
        made(constraint({"properties": {"a": {"$ref": "#/nowhere"}}}))
    ignored = made(constraint({"properties": {"a": {"type": "array", "uniqueItems": True}}})).ignored
    assert [one.partition(":")[0] for one in ignored] == ["tools"]


@pytest.mark.parametrize("name", ['a"b', "ä🦔", "a\nb", "%json {}", "<tool_call>", "a/b", "x" * 200])
def test_any_name_can_be_called(name: str) -> None:
    """Whatever a client calls its tools, the grammar spells it, and the call is read."""
    able = bench()
    constraint = ask(able, Tool(name=name), tool_choice=REQUIRED).constraint
    assert constraint is not None
    made, _ = masks()
    text = f'<tool_call>\n{{"name": {literal(name)}, "arguments": {{}}}}\n</tool_call>'
    assert follows(made(constraint), text.encode())
    able.model.answer = list(text)
    outputs = able.chat(ChatCall(model="tiny", messages=(USER,), tools=(Tool(name=name),)))
    assert [call.name for one in outputs if isinstance(one, Delta) for call in one.tool_calls] == [name]


# ── calls and their results ───────────────────────────────────────────────────────────────────────────────────────────


def test_results_find_their_calls() -> None:
    """By id, by the tool's name, or in order; a result of nothing stays as it is."""
    calls = (ToolCall(name="a"), ToolCall(name="b", id="x"), ToolCall(name="a"), ToolCall(name="c"))
    results = [
        Message(role="tool", tool_call_id="x"),
        Message(role="tool", tool_name="a"),
        Message(role="tool"),
        Message(role="tool", tool_name="unknown"),
        Message(role="tool"),
        Message(role="tool", tool_call_id="nowhere"),
    ]
    asked, *linked = with_call_ids([Message(role="assistant", tool_calls=calls), *results])
    assert [call.id for call in asked.tool_calls] == ["call_0_0", "x", "call_0_2", "call_0_3"]
    found = [(one.tool_call_id, one.tool_name) for one in linked]
    assert found[:3] == [("x", "b"), ("call_0_0", "a"), ("call_0_2", "a")]
    assert found[3:] == [("call_0_3", "unknown"), (None, None), ("nowhere", None)]


def test_many_results_take_no_longer_each() -> None:
    """However many calls are open, each result is found without a search."""
    calls = tuple(ToolCall(name=f"t{number % 7}") for number in range(3000))
    results = [Message(role="tool", tool_name=f"t{number % 7}") for number in range(3000)]
    linked = with_call_ids([Message(role="assistant", tool_calls=calls), *results])
    assert len({one.tool_call_id for one in linked[1:]}) == 3000
