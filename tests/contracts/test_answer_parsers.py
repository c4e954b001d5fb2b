"""Our answer parsers against the contract of their port, and the contract against parsers that break it."""

from __future__ import annotations

import pytest

from corral.adapters.answer_parsers.think_tags import ThinkTagParser, ThinkTagParsers
from corral.core.ports.chat import RenderedChat
from corral.core.requests.outputs import Delta
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags
from corral.plugins.testing.answer_parser import AnswerParserContract, MakeParser
from corral.plugins.testing.broken.parsers import ANSWERS, PARSERS, SoundParser
from tests.contracts.broken_parts import failures, promises

_TAGS = ThinkTags(start="<think>", end="</think>")
_CHAT = ChatRequest(messages=())


class TestThinkTags(AnswerParserContract):
    answers = ANSWERS

    @pytest.fixture
    def make_parser(self) -> MakeParser:
        return lambda: ThinkTagParsers().open(_CHAT, _rendered("<|assistant|>"))


def _rendered(prompt: str) -> RenderedChat:
    return RenderedChat(prompt=(TextPart(text=prompt, parse_special=True),), think=_TAGS)


def _read(parser: ThinkTagParser, text: str) -> tuple[str, str]:
    heard = [*parser.feed(Delta(text=text)), *parser.finish()]
    return "".join(one.thinking for one in heard), "".join(one.text for one in heard)


def test_a_prompt_may_end_with_the_opening_tag() -> None:
    """The answer then begins with thinking."""
    parsers, rendered = ThinkTagParsers(), _rendered("<|assistant|><think>\n")
    assert _read(parsers.open(_CHAT, rendered), "hm</think>Yes") == ("hm", "Yes")


class _Contract(AnswerParserContract):
    answers = ANSWERS


@pytest.mark.parametrize("parser", [SoundParser, *PARSERS])
def test_a_broken_parser_fails_its_own_test_alone(parser: type[SoundParser]) -> None:
    """A sound parser passes them all."""
    assert failures(_Contract, parser) == ({parser.breaks} if parser.breaks else set())


def test_every_promise_has_a_parser_that_breaks_it() -> None:
    """Every test of the contract is failed by some broken parser."""
    assert {parser.breaks for parser in PARSERS} == promises(AnswerParserContract)
