"""Chat languages and answer parsers of plugins that fail: the error names the plugin, and nothing else is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from corral.adapters.answer_parsers.hermes import HermesCalls
from corral.adapters.answer_parsers.think_tags import ThinkTagParsers
from corral.adapters.templates.language import JinjaLanguage
from corral.core.errors import InvalidModelFile, InvalidRequest, PluginError
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.outputs import Delta
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags
from corral.plugins.guarded_parsers import GuardedCallFormat, GuardedParsers
from corral.plugins.guarded_parts import GuardedLanguage

_WHERE = "the plugin far, it"
_CHAT = ChatRequest(messages=(Message(role="user", content="q"),))
_RENDERED = RenderedChat(prompt=(), parsers=("it",), think=ThinkTags(start="<think>", end="</think>"))
_TEXT = TemplateText(kind="it", text="")


def _raise(fault: BaseException) -> Callable[..., Any]:
    def raising(*arguments: Any, **named: Any) -> Any:
        raise fault

    return raising


class Made:
    """An object with the given methods."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self.__dict__.update(methods)


def _parsed(feed: Callable[..., Any], finish: Callable[..., Any] = lambda: ()) -> Sequence[Delta]:
    parser = GuardedParsers(Made(open=lambda *given: Made(feed=feed, finish=finish)), _WHERE).open(_CHAT, _RENDERED)
    return [*parser.feed(Delta(text="Hi")), *parser.finish()]


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: _parsed(_raise(ValueError("no luck"))), "feed: ValueError: no luck"),
        (lambda: _parsed(_raise(SystemExit(3))), "feed: raised SystemExit"),
        (lambda: _parsed(lambda delta: [delta], _raise(KeyError("x"))), "finish: KeyError"),
        (lambda: _parsed(lambda delta: ["Hi"]), "instead of Delta"),
        (lambda: _parsed(lambda delta: None), "feed: TypeError"),
        (lambda: GuardedParsers(Made(open=lambda *given: None), _WHERE).open(_CHAT, _RENDERED), "AnswerParser"),
        (lambda: GuardedParsers(Made(open=lambda *given: sys.exit()), _WHERE).open(_CHAT, _RENDERED), "SystemExit"),
        (lambda: _compile(Made(compile=_raise(ValueError("no luck")))), "compile: ValueError: no luck"),
        (lambda: _compile(Made(compile=lambda *given: 3)), "instead of a ChatFormat"),
        (lambda: _rendered(_raise(ValueError("no luck"))), "render: ValueError: no luck"),
        (lambda: _rendered(lambda *given: "a prompt"), "instead of RenderedChat"),
    ],
)
def test_a_fault_names_the_plugin(work: Callable[[], Any], said: str) -> None:
    """Whatever it raises or returns, the caller gets an error of Corral's."""
    with pytest.raises(PluginError) as caught:
        work()
    assert caught.value.message.startswith(_WHERE)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda guarded: guarded.preserved_tokens(_RENDERED), "preserved_tokens"),
        (lambda guarded: guarded.open(_CHAT, _RENDERED), "open"),
        (lambda guarded: guarded.call_grammar((), _RENDERED, required=True), "call_grammar"),
    ],
)
@pytest.mark.parametrize("answer", [_raise(ValueError("no luck")), _raise(SystemExit(3)), lambda *given, **named: 3])
def test_a_fault_of_a_call_format_names_the_plugin(
    work: Callable[[GuardedCallFormat], Any], said: str, answer: Callable[..., Any]
) -> None:
    """Whatever its methods raise or return, the caller gets an error of Corral's."""
    made = Made(preserved_tokens=answer, open=answer, call_grammar=answer)
    with pytest.raises(PluginError) as caught:
        work(GuardedCallFormat(made, _WHERE))
    assert caught.value.message.startswith(f"{_WHERE}: {said}: ")


@pytest.mark.parametrize("answer", [_raise(ValueError("no luck")), _raise(SystemExit(3))])
def test_a_parser_that_fails_at_a_template_does_not_know_it(answer: Callable[..., Any]) -> None:
    """It is asked about every model, so this does not fail any of them."""
    assert GuardedParsers(Made(think_tags=answer), _WHERE).think_tags(_TEXT) is None
    assert not GuardedCallFormat(Made(recognises=answer), _WHERE).recognises(_TEXT)


def test_a_sound_call_format_passes() -> None:
    """Its results are the same as without a guard."""
    guarded, bare = GuardedCallFormat(HermesCalls(), _WHERE), HermesCalls()
    template = TemplateText(kind="jinja", text="<tool_call></tool_call>")
    tools = (Tool(name="now"),)
    assert guarded.recognises(template)
    assert guarded.preserved_tokens(_RENDERED) == bare.preserved_tokens(_RENDERED)
    for required in (True, False):
        grammar = bare.call_grammar(tools, _RENDERED, required=required)
        assert guarded.call_grammar(tools, _RENDERED, required=required) == grammar
    parser = guarded.open(ChatRequest(messages=(), tools=tools), _RENDERED)
    deltas = (*parser.feed(Delta(text='<tool_call>{"name": "now"}</tool_call>')), *parser.finish())
    assert [call for delta in deltas for call in delta.tool_calls] == [ToolCall(name="now")]


def _compile(language: Any) -> Any:
    return GuardedLanguage(language, _WHERE).compile(_TEXT, None)


def _rendered(render: Callable[..., Any]) -> RenderedChat:
    rendered: RenderedChat = _compile(Made(compile=lambda *given: Made(render=render))).render(_CHAT)
    return rendered


def test_what_is_sound_passes() -> None:
    """Results are the same as without a guard, and so are errors of Corral's own."""
    parser = GuardedParsers(ThinkTagParsers(), _WHERE).open(_CHAT, _RENDERED)
    assert [*parser.feed(Delta(text="<think>hm</think>Yes")), *parser.finish()] == [Delta(text="Yes", thinking="hm")]
    language = GuardedLanguage(JinjaLanguage(), _WHERE)
    for template, error in (("{% if %}", InvalidModelFile), ("{{ raise_exception('no') }}", InvalidRequest)):
        with pytest.raises(error):
            language.compile(TemplateText(kind="jinja", text=template), None).render(_CHAT)
