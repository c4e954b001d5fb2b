"""Masks of one request: thinking that ends in time, and a constraint that begins after it."""

from __future__ import annotations

import pytest

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions
from corral.adapters.runners.request_masks import RequestMasks
from corral.core.errors import InvalidRequest, Unsupported
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import RequestMask, Vocabulary
from corral.core.requests.outputs import Delta, Finished
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, Constraint, SamplingParams, Thinking
from corral.core.stepping.answer_driver import SequenceDriver
from corral.core.stepping.loops import StepLoop
from corral.core.stepping.text_watch import TextWatch
from corral.core.stepping.thinking_mask import AnswerMask, Spelling, ThinkingMask

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
    b"\n\n",
    b">word",
    b"42",
    b"<word",
)
VOCABULARY = Vocabulary(pieces=PIECES, ends=frozenset({0}))


def ids_of(bits: bytes | None) -> list[int] | None:
    return None if bits is None else [index for index in range(len(PIECES)) if bits[index >> 3] >> (index & 7) & 1]


def thinking(
    max_tokens: int | None, start: str = "", end: str = "</think>", answer: AnswerMask | None = None
) -> ThinkingMask:
    opening = Spelling(start, VOCABULARY) if start else None
    value = Thinking(max_tokens=max_tokens, start=start, end=end)
    return ThinkingMask(value, opening, Spelling(end, VOCABULARY), answer)


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


def pieces_of(mask: RequestMask) -> set[bytes]:
    allowed = ids_of(mask.allowed())
    assert allowed is not None
    return {PIECES[token_id] for token_id in allowed}


class Number:
    """A mask of an answer that consists of the number 42."""

    ignored = ("format: something",)
    warnings = ("format: cut short",)

    def __init__(self) -> None:
        self.said = b""
        self.spent = 0

    def spend(self) -> None:
        self.spent += 1

    def limit(self, tokens: int) -> None:
        self.most = tokens

    def allowed(self) -> bytes:
        token_id = PIECES.index(b"" if self.said else b"42")
        bits = bytearray(len(PIECES) // 8 + 1)
        bits[token_id >> 3] |= 1 << (token_id & 7)
        return bytes(bits)

    def accept(self, token_id: int) -> None:
        self.said += PIECES[token_id]


def test_the_end_is_forced_once_the_budget_is_used_up() -> None:
    """With the longest possible tokens; afterwards everything is allowed for the rest of the answer."""
    mask = thinking(2)
    say(mask, b"word", b"word")
    assert forced(mask) == b"</think>"
    say(mask, b"<think>", b"word", b"word", b"word")


@pytest.mark.parametrize("tag", [[b"<", b"think", b">"], [b"<think>"], [b"\n\n", b"<", b"t", b"h", b"ink", b">"]])
def test_tokens_count_from_the_opening_tag(tag: list[bytes]) -> None:
    """However the tag is split into tokens."""
    mask = thinking(1, start="<think>")
    say(mask, *tag, b"word")
    assert forced(mask) == b"</think>"


def test_thinking_that_was_not_begun_is_not_ended() -> None:
    """An answer that does not begin with the tag has no thinking, whatever follows."""
    mask = thinking(1, start="<think>")
    say(mask, b"word", b"<think>", b"word", b"word", b"word")
    mask = thinking(1, start="<think>")
    say(mask, b"<", b"word", b"word", b"word")


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
    with pytest.raises(InvalidRequest, match="thinking: "):
        thinking(1, end=end)


def test_the_model_decides_whether_it_thinks_before_a_constrained_answer() -> None:
    """Its first token is the opening tag or one that the constraint allows."""
    answer = Number()
    mask = thinking(None, start="<think>", answer=answer)
    assert mask.ignored == answer.ignored
    assert mask.warnings == answer.warnings
    assert pieces_of(mask) == {b"<think>", b"42"}
    mask.accept(PIECES.index(b"42"))
    assert pieces_of(mask) == {b""}


def test_a_constraint_begins_after_the_thinking() -> None:
    """Until then everything but the end of the answer is allowed; a little whitespace may come between the two."""
    answer = Number()
    mask = thinking(None, start="<think>", answer=answer)
    assert mask.allowed()
    mask.accept(PIECES.index(b"<think>"))
    for piece in (b"word", b"42", b"<", b"</think"[:2], b"t", b"h", b"ink"):
        assert pieces_of(mask) == {*PIECES} - {b""}
        mask.accept(PIECES.index(piece))
    assert pieces_of(mask) == {*PIECES} - {b"", b">word"}  # a token that ends inside the answer would evade its mask
    mask.accept(PIECES.index(b">"))
    for _ in range(4):
        assert pieces_of(mask) == {b"\n\n", b"42"}
        mask.accept(PIECES.index(b"\n\n"))
    assert pieces_of(mask) == {b"42"}
    mask.accept(PIECES.index(b"42"))
    assert (answer.said, answer.spent) == (b"42", 13)


def test_an_opening_tag_that_was_begun_is_completed() -> None:
    """If the tag takes several tokens, the constraint does not apply to them."""
    pieces = tuple(piece for piece in PIECES if piece != b"<think>")
    vocabulary = Vocabulary(pieces=pieces, ends=frozenset({0}))
    value = Thinking(start="<think>", end="</think>")
    mask = ThinkingMask(value, Spelling("<think>", vocabulary), Spelling("</think>", vocabulary), Number())
    for piece in (b"<", b"think", b">"):
        allowed = mask.allowed()
        assert allowed is not None
        token_id = pieces.index(piece)
        assert allowed[token_id >> 3] >> (token_id & 7) & 1
        mask.accept(token_id)
    allowed = mask.allowed()
    assert allowed is not None
    assert not allowed[0] & 1


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
    budget = Thinking(max_tokens=3, start="", end="</think>")
    assert answer(ask(thinking=budget), "zzzzzzzz").startswith("zzz</think>")
    constraint = Constraint(kind="json_schema", source='{"enum": ["alpha"]}')
    said = answer(ask(thinking=budget, constraint=constraint), "zzzzzzzz")
    assert "".join(said.split()) == 'zzz</think>"alpha"'


def test_thinking_without_limit_or_constraint_needs_no_mask() -> None:
    """Nothing is computed for it."""
    assert RequestMasks(FakeEngine(FakeLoadOptions())).mask(ask(thinking=Thinking(start="", end="</think>"))) is None


def test_engines_without_masks_refuse_budgets() -> None:
    """It is neither ignored nor half enforced."""
    engine = FakeEngine(FakeLoadOptions())
    engine.info = ModelInfo(tasks=engine.info.tasks)
    budget = Thinking(max_tokens=0, start="", end="</think>")
    with pytest.raises(Unsupported, match="limits of thinking"):
        RequestMasks(engine).mask(ask(thinking=budget))
    with pytest.raises(Unsupported, match="limits of thinking"):
        SequenceDriver(ask(thinking=budget))


def test_a_text_is_found_wherever_it_is_cut() -> None:
    """An empty tag counts as present from the beginning."""
    watch = TextWatch("abc")
    assert [watch.push(piece) for piece in (b"xa", b"b", b"bab", b"c", b"x")] == [False, False, False, True, True]
    assert TextWatch("").found
