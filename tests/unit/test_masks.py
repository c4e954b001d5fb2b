"""Masks of one request: the end of thinking, and several masks as one."""

from __future__ import annotations

import pytest

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions
from corral.adapters.runners.request_masks import RequestMasks
from corral.core.errors import InvalidRequest, Unsupported
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import RequestMask, Vocabulary
from corral.core.requests.outputs import Delta, Finished
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, Constraint, SamplingParams, ThinkingBudget
from corral.core.stepping.answer_driver import SequenceDriver
from corral.core.stepping.loops import StepLoop
from corral.core.stepping.text_watch import TextWatch
from corral.core.stepping.thinking_mask import Spelling, ThinkingMask

PIECES = (
    b"",
    b"</",
    b"</t",
    b"think",
    b"ink",
    b">",
    b"<",
    b"h",
    b"t",
    b"i",
    b"n",
    b"k",
    b"/",
    b"word",
    b"\xe6\x97",
    b"\xa5",
    b"<think>",
)
VOCABULARY = Vocabulary(pieces=PIECES, ends=frozenset({0}))


def ids_of(bits: bytes | None) -> list[int] | None:
    return None if bits is None else [index for index in range(len(PIECES)) if bits[index >> 3] >> (index & 7) & 1]


def thinking(max_tokens: int, start: str = "", end: str = "</think>") -> ThinkingMask:
    return ThinkingMask(ThinkingBudget(max_tokens=max_tokens, start=start, end=end), Spelling(end, VOCABULARY))


def forced(mask: RequestMask) -> bytes:
    """What the mask forces from here on, until it allows everything again."""
    text = b""
    while (allowed := ids_of(mask.allowed())) is not None:
        assert len(allowed) == 1
        mask.accept(allowed[0])
        text += PIECES[allowed[0]]
    return text


def say(mask: RequestMask, *pieces: bytes) -> None:
    for piece in pieces:
        assert mask.allowed() is None
        mask.accept(PIECES.index(piece))


def test_the_end_is_forced_once_the_budget_is_used_up() -> None:
    """With the longest possible tokens; afterwards everything is allowed for the rest of the answer."""
    mask = thinking(2)
    say(mask, b"word", b"word")
    assert forced(mask) == b"</think>"
    say(mask, b"<think>", b"word", b"word", b"word")


def test_thinking_that_was_not_begun_is_not_ended() -> None:
    """Only tokens after `start` count, however it is split into tokens."""
    mask = thinking(1, start="<think>")
    say(mask, b"word", b"word", b"<", b"think", b">", b"word")
    assert forced(mask) == b"</think>"


def test_a_model_that_stops_thinking_is_left_alone() -> None:
    """The model's own end tag counts, however it is split into tokens."""
    mask = thinking(5)
    say(mask, b"word", b"</", b"think", b">", b"word", b"word", b"word")


def test_what_was_begun_of_the_tag_is_completed() -> None:
    """A tag that is half written when the budget ends is not started again; nor is a character cut in two."""
    mask = thinking(2)
    say(mask, b"word", b"</t")
    assert forced(mask) == b"hink>"
    mask = thinking(1)
    say(mask, b"\xe6\x97", b"\xa5")
    assert forced(mask) == b"</think>"


def test_no_budget_at_all_ends_thinking_at_once() -> None:
    """With zero tokens, only the end tag is generated."""
    assert forced(thinking(0)) == b"</think>"


@pytest.mark.parametrize("end", ["", "no such letters"])
def test_a_tag_that_cannot_be_spelled_is_refused(end: str) -> None:
    """Before anything is generated."""
    with pytest.raises(InvalidRequest, match="thinking_budget"):
        thinking(1, end=end)


def answer(request: CompletionRequest, text: str) -> str:
    """What the fake engine says under the request's mask if it wants to say `text`."""
    engine = FakeEngine(FakeLoadOptions(answer=text))
    loop = StepLoop(engine)
    loop.add(1, request, RequestMasks(engine).mask(request))
    said = ""
    while loop.unfinished():
        for _, item in loop.step():
            assert isinstance(item, Delta | Finished) or type(item).__name__ == "Started", item
            said += item.text if isinstance(item, Delta) else ""
    return said


def ask(**fields: object) -> CompletionRequest:
    sampling = SamplingParams(temperature=0.0, num_predict=40)
    return CompletionRequest(prompt=(TextPart(text="x"),), sampling=sampling, **fields)  # type: ignore[arg-type]


def test_a_constraint_and_a_budget_hold_together() -> None:
    """The format begins when thinking ends, and one answer follows both."""
    pytest.importorskip("llguidance")
    budget = ThinkingBudget(max_tokens=3, start="", end="</think>")
    assert answer(ask(thinking_budget=budget), "zzzzzzzz").startswith("zzz</think>")
    constraint = Constraint(kind="json_schema", source='{"enum": ["alpha"]}', starts_after="</think>")
    assert answer(ask(thinking_budget=budget, constraint=constraint), "zzzzzzzz") == 'zzz</think>"alpha"'


def test_masks_that_contradict_each_other_are_the_callers_error() -> None:
    """A format that begins at once leaves no room for a tag."""
    pytest.importorskip("llguidance")
    engine = FakeEngine(FakeLoadOptions())
    budget = ThinkingBudget(max_tokens=0, start="", end="</think>")
    mask = RequestMasks(engine).mask(ask(thinking_budget=budget, constraint=Constraint(kind="regex", source="a+")))
    with pytest.raises(InvalidRequest, match="contradict"):
        mask.allowed()


def test_engines_without_masks_refuse_budgets() -> None:
    """It is neither ignored nor half enforced."""
    engine = FakeEngine(FakeLoadOptions())
    engine.info = ModelInfo(tasks=engine.info.tasks)
    budget = ThinkingBudget(max_tokens=0, start="", end="</think>")
    with pytest.raises(Unsupported, match="thinking budgets"):
        RequestMasks(engine).mask(ask(thinking_budget=budget))
    with pytest.raises(Unsupported, match="thinking budgets"):
        SequenceDriver(ask(thinking_budget=budget))


def test_a_text_is_found_wherever_it_is_cut() -> None:
    """An empty tag counts as present from the beginning."""
    watch = TextWatch("abc")
    assert [watch.push(piece) for piece in (b"xa", b"b", b"bab", b"c", b"x")] == [False, False, False, True, True]
    assert TextWatch("").found
