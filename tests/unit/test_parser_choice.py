"""Which parsers an answer goes through, and what core adds to their results."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Sequence

import pytest

from corral.adapters.answer_parsers.hermes import HermesCalls
from corral.adapters.answer_parsers.think_tags import ThinkTagParsers
from corral.core.errors import PluginError
from corral.core.generation.parser_choice import ChosenParsers, ParserChoice
from corral.core.generation.parsing import parsed
from corral.core.models.model import TemplateText
from corral.core.ports.answer_parsers import AnswerParser
from corral.core.ports.chat import RenderedChat
from corral.core.requests.messages import Tool, ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started, Usage
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags

_QWEN = TemplateText(kind="jinja", text="<think></think><tool_call>{{ tools }}</tool_call>")
_PLAIN = TemplateText(kind="jinja", text="{{ messages }}")
_CHAT = ChatRequest(messages=(), tools=(Tool(name="now"),))
_RENDERED = RenderedChat(prompt=(), preserved_tokens=frozenset({"<x>"}))
_TAGS = ThinkTags(start="<think>", end="</think>")


class OtherThinking(ThinkTagParsers):
    """Another parser for the same templates, as a plugin may register."""


class OtherCalls(HermesCalls):
    """Another format for the same templates, as a plugin may register."""


_OWN = ParserChoice({"think_tags": ThinkTagParsers()}, {"hermes": HermesCalls()})
_BOTH = ParserChoice(
    {"think_tags": ThinkTagParsers(), "other": OtherThinking()}, {"hermes": HermesCalls(), "calls": OtherCalls()}
)


def _chosen(
    choice: ParserChoice, template: TemplateText, request: ChatRequest = _CHAT, rendered: RenderedChat = _RENDERED
) -> ChosenParsers:
    return choice.choose(request, rendered, choice.recognise(template), "tiny")


def _kinds(chosen: ChosenParsers) -> list[type]:
    calls = [chosen.tool_calls] if chosen.tool_calls is not None else []
    return [type(one) for one in (*chosen.reasoning, *calls)]


def test_the_template_decides() -> None:
    """The parsers that know it are chosen, thinking first, with all that they need to see."""
    chosen = _chosen(_OWN, _QWEN)
    assert _kinds(chosen) == [ThinkTagParsers, HermesCalls]
    assert chosen.rendered.think == _TAGS
    marks = {"<think>", "</think>", "<tool_call>", "</tool_call>", "<x>"}
    assert chosen.rendered.preserved_tokens == marks
    plain = _chosen(_OWN, _PLAIN)
    assert (_kinds(plain), plain.rendered) == ([], _RENDERED)


def test_what_a_request_does_not_need_is_not_looked_for() -> None:
    """Without tools there are no calls, and with `think` false no thinking: both stay in the text."""
    silent = _chosen(_OWN, _QWEN, ChatRequest(messages=(), think=False))
    assert (_kinds(silent), silent.rendered) == ([], _RENDERED)
    assert _kinds(_chosen(_OWN, _QWEN, ChatRequest(messages=()))) == [ThinkTagParsers]


def test_a_plugins_parser_goes_first() -> None:
    """Of several that know a template, the last one registered is chosen."""
    assert _kinds(_chosen(_BOTH, _QWEN)) == [OtherThinking, OtherCalls]


def test_a_chat_format_may_name_its_parsers() -> None:
    """They are chosen instead of those that know the template, each for its own task."""
    named = RenderedChat(prompt=(), parsers=("think_tags", "hermes"), think=ThinkTags(start="«", end="»"))
    chosen = _chosen(_BOTH, _QWEN, rendered=named)
    assert _kinds(chosen) == [ThinkTagParsers, HermesCalls]
    assert chosen.rendered.think == ThinkTags(start="«", end="»")
    assert _kinds(_chosen(_BOTH, _QWEN, rendered=RenderedChat(prompt=(), parsers=("hermes",)))) == [
        OtherThinking,
        HermesCalls,
    ]


def test_a_parser_that_is_not_installed() -> None:
    """The error names it, and what is installed."""
    with pytest.raises(PluginError, match="tiny needs the answer parser 'far'") as caught:
        _chosen(_OWN, _PLAIN, rendered=RenderedChat(prompt=(), parsers=("far",)))
    assert caught.value.remedy is not None
    assert "hermes, think_tags" in caught.value.remedy


async def _outputs(texts: Sequence[str]) -> AsyncGenerator[Output, None]:
    yield Started(prompt_tokens=1)
    for text in texts:
        yield Delta(text=text, token_count=1)
    yield Finished(reason="stop", usage=Usage())


def _read(parsers: Sequence[AnswerParser], text: str) -> list[Output]:
    async def read() -> list[Output]:
        return [output async for output in parsed(_outputs(list(text)), parsers, "tiny")]

    return asyncio.run(read())


def test_an_answer_goes_through_all_parsers() -> None:
    """Calls are looked for in the visible text alone, and numbered; each gets an id, different from the others."""
    call = '<tool_call>{"name": "now"}</tool_call>'
    outputs = _read(_chosen(_OWN, _QWEN).open(_CHAT), f"<think>{call}</think>\nSo: {call}{call}")
    deltas = [output for output in outputs if isinstance(output, Delta)]
    assert "".join(one.thinking for one in deltas) == call
    assert "".join(one.text for one in deltas) == "So:"
    assert sum(one.token_count for one in deltas) == len(f"<think>{call}</think>\nSo: {call}{call}")
    calls = [found for one in deltas for found in one.tool_calls]
    assert [(one.name, one.index) for one in calls] == [("now", 0), ("now", 1)]
    assert all(re.fullmatch("call_[a-z0-9]{8}", one.id or "") for one in calls)
    assert calls[0].id != calls[1].id
    assert isinstance(outputs[0], Started)
    assert outputs[-1] == Finished(reason="stop", usage=Usage())


def test_ids_that_the_model_writes_are_kept() -> None:
    """Only calls without one get a new id."""

    class Fixed:
        def feed(self, delta: Delta) -> Sequence[Delta]:
            return ()

        def finish(self) -> Sequence[Delta]:
            return (Delta(tool_calls=(ToolCall(name="a", id="mine"), ToolCall(name="b"))),)

    [_, delta, _] = _read([Fixed()], "x")
    assert isinstance(delta, Delta)
    assert (delta.tool_calls[0].id, delta.tool_calls[1].index) == ("mine", 1)
    assert delta.tool_calls[1].id != "mine"


def test_what_is_held_back_goes_through_the_later_parsers(caplog: pytest.LogCaptureFixture) -> None:
    """A call that breaks off stays text, with a warning in the log and at the end."""
    with caplog.at_level(logging.WARNING):
        outputs = _read(_chosen(_OWN, _QWEN).open(_CHAT), 'Hm <tool_call>{"name": "now"')
    assert "".join(one.text for one in outputs if isinstance(one, Delta)) == 'Hm <tool_call>{"name": "now"'
    warning = "a tool call was left in the text: the answer ended inside it"
    assert outputs[-1] == Finished(reason="stop", usage=Usage(), warnings=(warning,))
    assert f"tiny: {warning}" in caplog.text
