"""The contract of answer parsers, as a suite to subclass: give it a fixture `make_parser`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import pytest

from corral.core.ports.answer_parsers import AnswerParser
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, TokenLogprob

__all__ = ("AnswerParserContract", "MakeParser")

MakeParser = Callable[[], AnswerParser]

_PLAIN = "Is 2 < 3? Yes, and\n\n  5 > 4. <b>é🦔</b> {[ "
_MOST_HELD = 64  # characters: the longest mark that a parser may wait for in plain text


def _heard(parser: AnswerParser, deltas: Iterable[Delta]) -> list[Delta]:
    return [heard for delta in deltas for heard in parser.feed(delta)] + list(parser.finish())


def _said(deltas: Iterable[Delta]) -> tuple[str, str, tuple[ToolCall, ...]]:
    """Thinking, visible text and tool calls."""
    heard = list(deltas)
    return (
        "".join(delta.thinking for delta in heard),
        "".join(delta.text for delta in heard),
        tuple(call for delta in heard for call in delta.tool_calls),
    )


def _cut(text: str, size: int) -> list[Delta]:
    return [
        Delta(text=text[at : at + size], token_count=1, logprobs=(TokenLogprob(token=b"t", logprob=-float(at)),))
        for at in range(0, len(text), size)
    ]


class AnswerParserContract:
    """What every `AnswerParser` promises.

    A subclass gives the fixture `make_parser`, a way to open a parser for an ordinary chat, and sets `answers`: texts
    that a model writes, each with the thinking, the visible text and the tool calls in it.
    """

    answers: ClassVar[Sequence[tuple[str, tuple[str, str, tuple[ToolCall, ...]]]]] = ()

    @pytest.fixture
    def make_parser(self) -> MakeParser:
        raise NotImplementedError("a subclass of AnswerParserContract gives the fixture make_parser")

    def test_answers_are_read(self, make_parser: MakeParser) -> None:
        """Each of `answers` is parsed as expected."""
        assert self.answers, "a subclass of AnswerParserContract sets answers"
        for text, meant in self.answers:
            assert _said(_heard(make_parser(), [Delta(text=text)])) == meant

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_the_cuts_do_not_matter(self, make_parser: MakeParser, size: int) -> None:
        """The result is the same, however an answer is divided into deltas."""
        for text, meant in self.answers:
            assert _said(_heard(make_parser(), _cut(text, size))) == meant

    @pytest.mark.parametrize("size", [1, 5, 1000])
    def test_plain_text_stays_as_it_is(self, make_parser: MakeParser, size: int) -> None:
        """All of an answer without marks is visible text."""
        assert _said(_heard(make_parser(), _cut(_PLAIN, size))) == ("", _PLAIN, ())

    def test_plain_text_is_not_held_back(self, make_parser: MakeParser) -> None:
        """At most a few characters are held back from the reader."""
        parser, given, seen = make_parser(), 0, 0
        for delta in _cut("words and more words " * 40, 3):
            given += len(delta.text)
            seen += sum(len(heard.text) for heard in parser.feed(delta))
            assert given - seen <= _MOST_HELD

    @pytest.mark.parametrize("size", [1, 4])
    def test_tokens_and_log_probabilities_are_kept(self, make_parser: MakeParser, size: int) -> None:
        """The token count and log-probabilities of a delta come out at once, even if its text is held back."""
        for text in (_PLAIN, *(text for text, _ in self.answers)):
            parser = make_parser()
            for delta in _cut(text, size):
                heard = parser.feed(delta)
                assert sum(one.token_count for one in heard) == delta.token_count
                assert tuple(logprob for one in heard for logprob in one.logprobs) == delta.logprobs
            rest = parser.finish()
            assert not any(one.token_count or one.logprobs for one in rest)

    def test_what_the_engine_has_separated_stays_so(self, make_parser: MakeParser) -> None:
        """Thinking and tool calls in a delta are passed on."""
        call = ToolCall(name="time")
        given = [Delta(thinking="hm"), Delta(text="Hi"), Delta(tool_calls=(call,))]
        assert _said(_heard(make_parser(), given)) == ("hm", "Hi", (call,))

    def test_an_answer_that_breaks_off(self, make_parser: MakeParser) -> None:
        """Wherever an answer ends, `finish` does not fail, and nothing comes out twice."""
        for text, (_, _, calls) in self.answers:
            for end in range(len(text)):
                thinking, visible, begun = _said(_heard(make_parser(), _cut(text[:end], 1)))
                assert len(thinking) + len(visible) <= end
                assert begun == calls[: len(begun)]

    def test_nothing_is_left_from_another_answer(self, make_parser: MakeParser) -> None:
        """Parsers of answers that are generated at the same time share nothing."""
        for text, _ in self.answers:
            alone = _said(_heard(make_parser(), _cut(text, 2)))
            one, other = make_parser(), make_parser()
            heard: tuple[list[Delta], list[Delta]] = ([], [])
            for delta in _cut(text, 2):
                heard[0].extend(one.feed(delta))
                heard[1].extend(other.feed(delta))
            heard[0].extend(one.finish())
            heard[1].extend(other.finish())
            assert (_said(heard[0]), _said(heard[1])) == (alone, alone)
