"""Our tool call formats against the contract of their port, and the contract against formats that break it."""

from __future__ import annotations

import pytest

from corral.adapters.answer_parsers.hermes import HermesCalls
from corral.core.requests.messages import ToolCall
from corral.plugins.testing.answer_parser import AnswerParserContract
from corral.plugins.testing.broken.calls import CALL_ANSWERS, CALL_FORMATS, CALL_TEMPLATE, SoundCalls
from corral.plugins.testing.tool_call_format import MakeCallFormat, ToolCallFormatContract
from tests.contracts.broken_parts import failures, promises


class TestHermes(ToolCallFormatContract):
    template = CALL_TEMPLATE
    answers = (
        *CALL_ANSWERS,
        (  # all on one line, a list, other keys, and arguments that are a JSON text
            '<tool_call>[{"name":"now"},{"function":{"name":"add","parameters":"{\\"a\\":2,\\"b\\":3}"}}]</tool_call>',
            ("", "", (ToolCall(name="now"), ToolCall(name="add", arguments={"a": 2, "b": 3}))),
        ),
        (  # marks and braces inside strings
            'So:\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "a}</tool_call>\\"{[\\\\"}}\n</tool_call>',
            ("", "So:", (ToolCall(name="get_weather", arguments={"city": 'a}</tool_call>"{[\\'}),)),
        ),
        (  # text between calls, and a closing mark that is missing
            '<tool_call>{"name": "now"}</tool_call>\n\nAnd then\n<tool_call>{"name": "now"}',
            ("", "And then", (ToolCall(name="now"), ToolCall(name="now"))),
        ),
    )

    @pytest.fixture
    def make_format(self) -> MakeCallFormat:
        return HermesCalls


class _Contract(ToolCallFormatContract):
    template = CALL_TEMPLATE
    answers = CALL_ANSWERS


_OWN = promises(ToolCallFormatContract) - promises(AnswerParserContract)


@pytest.mark.parametrize("made", [SoundCalls, *CALL_FORMATS])
def test_a_broken_format_fails_its_own_test_alone(made: type[SoundCalls]) -> None:
    """A sound format passes them all."""
    assert failures(_Contract, made, _OWN) == ({made.breaks} if made.breaks else set())


def test_every_promise_has_a_format_that_breaks_it() -> None:
    """Every test of the contract that is not already one of all parsers is failed by some broken format."""
    assert {made.breaks for made in CALL_FORMATS} == _OWN
