"""Thinking, from the call to the prompt: who thinks, what the template is told, and what becomes of old thinking."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from corral.adapters.answer_parsers.harmony import HarmonyThinking
from corral.adapters.templates.jinja import JinjaFormat
from corral.core.errors import InvalidRequest, Unsupported
from corral.core.models.model import RemoteModel
from corral.core.requests.calls import ChatCall, GenerateCall, LoadCall
from corral.core.requests.messages import Message
from corral.core.requests.outputs import Delta
from corral.core.requests.prompts import prompt_text
from corral.core.requests.requests import ChatRequest, CompletionRequest, Constraint, Request, Thinking
from corral.core.requests.think_tags import ThinkTags, without_old_thinking
from corral.core.requests.think_values import check_think
from tests.unit.test_generation import _RECORD, Bench

USER = Message(role="user", content="q")
TAGS = "{% if false %}<think></think>{% endif %}"
ECHO = TAGS + "{{ messages[-1].content }}|{{ enable_thinking }}|{{ reasoning_effort }}|{{ thinking_budget }}"
OPENING = TAGS + "{{ messages[-1].content }}<think>{{ '\n' }}"
CHOICE = Constraint(kind="regex", source="a")
ABLE = ("completion", "thinking")


def rendered(source: str, *messages: Message, **fields: Any) -> str:
    return prompt_text(JinjaFormat(source).render(ChatRequest(messages=messages or (USER,), **fields)).prompt)


def asked(bench: Bench, **fields: Any) -> Request:
    bench.chat(ChatCall(model="tiny", messages=(USER,), **fields))
    return bench.model.requests[-1]


def completion(bench: Bench, **fields: Any) -> CompletionRequest:
    request = asked(bench, **fields)
    assert isinstance(request, CompletionRequest)
    return request


# ── who thinks ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("think", "shown"), [(None, "q|True||"), (True, "q|True||"), ("low", "q|True|low|"), (False, "q|False||0")]
)
def test_a_model_that_can_think_does_unless_told_otherwise(think: bool | str | None, shown: str) -> None:
    """In chat and generate alike; the template's variables say so."""
    bench = Bench(template=ECHO, capabilities=ABLE)
    assert prompt_text(completion(bench, think=think).prompt) == shown
    bench.generate(GenerateCall(model="tiny", prompt="q", think=think))
    assert prompt_text(bench.request().prompt) == shown


def test_a_model_that_cannot_think_is_not_asked_to() -> None:
    """Its template gets no variables; asking for thinking is an error, before anything is loaded."""
    bench = Bench(template=ECHO)
    assert prompt_text(completion(bench).prompt) == "q|||"
    assert prompt_text(completion(bench, think=False).prompt) == "q|False||0"
    leases = len(bench.scheduler.asked)
    with pytest.raises(Unsupported, match='"tiny" does not support thinking'):
        bench.chat(ChatCall(model="tiny", messages=(USER,), think="high"))
    with pytest.raises(Unsupported, match='"tiny" does not support thinking'):
        bench.generate(GenerateCall(model="tiny", prompt="q", think=True, raw=True))
    assert len(bench.scheduler.asked) == leases


def test_another_server_decides_for_its_own_models() -> None:
    """What is not stated stays so, and what is stated is passed on, whatever is known of the model."""
    record = msgspec.structs.replace(_RECORD, remote=RemoteModel(host="http://far:1", model="m"))
    for capabilities in (("completion",), ABLE):
        bench = Bench(record=record, tasks=("chat",), capabilities=capabilities)
        for think in (None, True, "max", False):
            request = asked(bench, think=think)
            assert isinstance(request, ChatRequest)
            assert request.think == think


@pytest.mark.parametrize("value", [None, True, False, "low", "medium", "high", "max"])
def test_think_values(value: Any) -> None:
    """A bool or a level."""
    assert check_think(value) is value


@pytest.mark.parametrize("value", ["", "High", "none", 0, 1.5, [], {}, b"low"])
def test_wrong_think_values(value: Any) -> None:
    """Anything else is an error that lists them."""
    with pytest.raises(InvalidRequest, match='"high", "medium", "low", "max", true, or false'):
        check_think(value)


def test_loading_a_model_checks_whether_it_can_think() -> None:
    """So that a client learns it with its first, empty request."""
    with pytest.raises(Unsupported, match='"tiny" does not support thinking'):
        asyncio.run(Bench().service.load(LoadCall(model="tiny", think=True)))
    assert asyncio.run(Bench(capabilities=ABLE).service.load(LoadCall(model="tiny", think=True))) == 42


# ── what a constraint and a limit know of it ──────────────────────────────────────────────────────────────────────────


def test_a_constraint_begins_after_the_thinking() -> None:
    """If the answer may think, the request says between which tags; without thinking, the constraint holds at once."""
    bench = Bench(template=ECHO, capabilities=ABLE, features=("constraints",))
    assert completion(bench, constraint=CHOICE).thinking == Thinking(start="<think>", end="</think>")
    assert completion(bench, constraint=CHOICE, think=False).thinking is None
    assert completion(bench).thinking is None
    bench.generate(GenerateCall(model="tiny", prompt="q", constraint=CHOICE))
    assert bench.request().thinking == Thinking(start="<think>", end="</think>")
    opened = Bench(template=OPENING, capabilities=ABLE, features=("constraints",))
    assert completion(opened, constraint=CHOICE).thinking == Thinking(start="", end="</think>")


def test_a_constraint_begins_after_the_channel_of_the_answer() -> None:
    """In harmony's format, the model names the channel of its answer between the thinking and the answer."""
    marks = (
        "{% if false %}<|start|><|channel|><|message|><|end|>{% endif %}{{ messages[-1].content }}<|start|>assistant"
    )
    harmony = HarmonyThinking()
    bench = Bench(template=marks, capabilities=ABLE, features=("constraints",), parsers={"harmony": harmony})
    start = "<|channel|>analysis<|message|>"
    bridge = "<|start|>assistant<|channel|>final<|message|>"
    assert completion(bench, constraint=CHOICE).thinking == Thinking(start=start, end=f"<|end|>{bridge}")
    limited = completion(bench, options={"thinking_budget": 5})
    assert limited.thinking == Thinking(start=start, end="<|end|>", max_tokens=5)


def test_thinking_can_be_limited() -> None:
    """By an option, of a request or of the model; a negative number is no limit. The template learns of it too."""
    record = msgspec.structs.replace(_RECORD, parameters={"thinking_budget": 7})
    bench = Bench(record=record, template=ECHO, capabilities=ABLE, features=("constraints",))
    assert completion(bench).thinking == Thinking(start="<think>", end="</think>", max_tokens=7)
    assert prompt_text(bench.request().prompt) == "q|True||7"
    assert completion(bench, options={"thinking_budget": 0}).thinking == Thinking(
        start="<think>", end="</think>", max_tokens=0
    )
    assert completion(bench, options={"thinking_budget": -1}).thinking is None
    assert completion(bench, think=False).thinking is None


# ── what the template is told ─────────────────────────────────────────────────────────────────────────────────────────


def test_each_template_is_told_in_its_own_words() -> None:
    """There is no standard: a template gets the variables that it mentions."""
    assert rendered("{{ thinking }}", think=True) == "True"
    assert rendered("{{ thinking }}", think=False) == "False"
    assert rendered("{{ thinking is defined }}|{{ enable_thinking is defined }}") == "False|False"
    assert rendered("{{ enable_thinking }}{{ thinking_budget is defined }}", think=True) == "TrueFalse"
    assert rendered("{{ thinking_budget }}", think="low", thinking_budget=9) == "9"


def test_levels() -> None:
    """``max`` is ``high`` for a template that does not know it; some templates switch thinking off with a level."""
    effort = "{{ reasoning_effort if reasoning_effort is defined else 'unset' }}"
    none = effort + "{% if reasoning_effort == 'none' %}!{% endif %}"
    assert [rendered(effort, think=think) for think in (True, "medium", "max")] == ["unset", "medium", "high"]
    assert [rendered(none, think=think) for think in (True, False)] == ["high", "none!"]
    assert rendered(effort + "{{ 1 if reasoning_effort == 'max' }}", think="max") == "max1"


def test_a_template_that_always_opens_the_thinking() -> None:
    """Without thinking, it is closed at once, as in the prompts that such models were trained on."""
    assert rendered(OPENING, think=False) == "q<think>\n\n</think>\n\n"
    assert rendered(OPENING, think=True) == rendered(OPENING) == "q<think>\n"


def test_a_continued_answer_is_not_taken_for_thinking() -> None:
    """If the template opens the thinking, its beginning stands after the closing tag."""
    begun = Message(role="assistant", content="Yes, ")
    assert rendered(OPENING, USER, begun) == "q<think>\n\n</think>\n\nYes, "
    thought = Message(role="assistant", content="Yes, ", thinking="hm")
    assert rendered(OPENING, USER, thought) == "q<think>\nhm\n</think>\n\nYes, "


# ── earlier thinking ──────────────────────────────────────────────────────────────────────────────────────────────────

_DIALOGUE = (
    USER,
    Message(role="assistant", content="<think>a</think>\n\none", thinking="b"),
    Message(role="assistant", content="say <think> and </think>"),
    Message(role="user", content="<think>mine</think>"),
    Message(role="assistant", content="<think>c</think>two", thinking="d"),
    Message(role="tool", content="<think>r</think>"),
)
_SHOWN = "{% for m in messages %}[{{ m.content }},{{ m.reasoning_content }}]{% endfor %}"


def test_the_thinking_of_earlier_turns_is_left_out() -> None:
    """Answers before the last user message lose it, in the text and as a field; the current turn keeps its own."""
    shown = rendered(TAGS + _SHOWN, *_DIALOGUE)
    assert shown == (
        "[q,][one,][say <think> and </think>,][<think>mine</think>,][<think>c</think>two,d][<think>r</think>,]"
    )


def test_thinking_in_the_text_is_only_known_by_its_tags() -> None:
    """A template without tags gets the texts as they are, but no old thinking."""
    assert rendered(_SHOWN, *_DIALOGUE[:4]).startswith("[q,][<think>a</think>\n\none,][say")


def test_thinking_that_was_never_closed_stays() -> None:
    """An answer that was cut off while it was thinking has nothing else."""
    tags = ThinkTags(start="<think>", end="</think>")
    cut = Message(role="assistant", content="<think>hm")
    assert without_old_thinking([USER, cut, USER], tags) == [USER, cut, USER]
    assert without_old_thinking([], tags) == []
    assert without_old_thinking([cut], tags) == [cut]


# ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────────────

_ANSWERS = (
    ("<think>\nhm < 3 </thin </think>\n\nYes <b>", ("hm < 3 </thin ", "Yes <b>")),
    ("<think></think>Yes", ("", "Yes")),
    ("\n <think>größe 🦔</think> Yes</think>", ("größe 🦔", "Yes</think>")),
    ("<thin air", ("", "<thin air")),
    ("<think>cut off </th", ("cut off </th", "")),
)


@pytest.mark.parametrize(("answer", "meant"), _ANSWERS)
def test_tags_may_be_cut_anywhere(answer: str, meant: tuple[str, str]) -> None:
    """However an answer is divided into deltas, the same thinking and the same text are streamed."""
    draw = random.Random(7)
    bench = Bench(template=ECHO, capabilities=ABLE)
    cuts = [[place] for place in range(len(answer))]
    cuts += [sorted(draw.sample(range(len(answer)), draw.randrange(len(answer)))) for _ in range(40)]
    for places in cuts:
        ends = [*places, len(answer)]
        bench.model.answer = [answer[start:end] for start, end in zip([0, *places], ends, strict=True)]
        deltas = [one for one in bench.chat(ChatCall(model="tiny", messages=(USER,))) if isinstance(one, Delta)]
        assert ("".join(one.thinking for one in deltas), "".join(one.text for one in deltas)) == meant
