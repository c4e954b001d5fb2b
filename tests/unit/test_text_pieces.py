"""Long texts in pieces: the ids of the whole text, an early end, a limit by size, and fair turns for callers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Generator, Sequence
from queue import Queue

import pytest

from corral.adapters.engine_kit.text_pieces import PIECE_CHARACTERS, TextPieces, TokenSizes, finished, gradual_ids
from corral.adapters.engines.fake.tokenizer import FakeTokenizer
from corral.adapters.runners.frames import Result, TokenizerCall
from corral.adapters.runners.spawn import ChildOutput
from corral.adapters.runners.tokenizing import Tokenizing
from corral.core.errors import InvalidRequest, PromptTooLong
from corral.core.ports.tokens import Tokenizer
from corral.core.requests.prompts import Prompt, TextPart, TokensPart

WORDS = ["water", "and", "people,", "time.", "日本", "café", "x\n\n", "", "the\tway", "1", "2", "我们", "🙂"]
WORDS += ["<|im_end|>", ";", "a", "b"]


def pieces() -> tuple[TextPieces, FakeTokenizer]:
    tokenizer = FakeTokenizer()

    def text_ids(text: str, *, parse_special: bool) -> Sequence[int]:
        return tokenizer.encode([(TextPart(text=text, parse_special=parse_special),)])[0][1:]

    sizes = TokenSizes(tokenizer.vocabulary().pieces, lossless=True)
    return TextPieces(text_ids, sizes, ["<|im_start|>", "<|im_end|>"]), tokenizer


def test_pieces_have_the_ids_of_the_whole() -> None:
    """A text that is tokenized in pieces gets exactly the same ids as in one go, with or without control tokens."""
    divided, tokenizer = pieces()
    dice = random.Random(1)
    for parse_special in (True, False):
        text = "".join(dice.choice(WORDS) + dice.choice((" ", " ", "\n", "")) for _ in range(12_000))
        turns = [0]
        ids = finished(counted(divided.gradually(text, parse_special=parse_special), turns))
        [whole] = tokenizer.encode([(TextPart(text=text, parse_special=parse_special),)])
        assert tuple(ids) == whole[1:]
        assert turns[0] >= len(text) // PIECE_CHARACTERS - 1


def counted(steps: Generator[None, None, list[int]], turns: list[int]) -> Generator[None, None, list[int]]:
    """The same steps, counted."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: list[int] = end.value
            return result
        turns[0] += 1
        yield


def test_a_text_is_refused_once_it_is_known_to_be_too_long() -> None:
    """Beyond `most` tokens nothing more is tokenized: an error, or with `cut` a beginning of the ids."""
    divided, tokenizer = pieces()
    text = "water and people " * 20_000
    with pytest.raises(PromptTooLong, match="more than the 50 tokens"):
        finished(divided.gradually(text, parse_special=False, most=50))
    ids = finished(divided.gradually(text, parse_special=False, most=50, cut=True))
    assert 50 < len(ids) < 10_000
    assert tuple(ids) == tokenizer.encode([(TextPart(text=text),)])[0][1 : len(ids) + 1]


def test_no_text_has_fewer_tokens_than_its_size_says() -> None:
    """The bound by size never exceeds the true count, and is close enough to be useful."""
    divided, tokenizer = pieces()
    for text in ("water " * 100, "我" * 100, "zzz", "people", "\n" * 9, "a"):
        count = len(tokenizer.text_ids(text))
        assert count / 12 - 1 <= divided.sizes.fewest(text) <= count
    assert divided.sizes.longest is not None
    assert TokenSizes([b"abc"], lossless=False).longest is None
    assert TokenSizes([b"abc"], lossless=False).fewest("abc" * 100) == 0


def test_a_text_that_nothing_divides_is_bounded() -> None:
    """A single call into native code, which cannot be interrupted, never gets a text of unlimited length."""
    divided, _ = pieces()
    with pytest.raises(InvalidRequest, match="600000 characters"):
        finished(divided.gradually("z" * 600_000, parse_special=False))
    with pytest.raises(InvalidRequest, match="not in the vocabulary"):
        finished(gradual_ids((TokensPart(ids=(1, 5)),), divided, 5, None, cut=False))


class SlowTokenizer:
    """Work that takes one turn per character, and counts the turns."""

    def __init__(self) -> None:
        self.turns = 0
        self.go = threading.Event()

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return [finished(self.encode_gradually(prompt)) for prompt in prompts]

    def encode_gradually(
        self, prompt: Prompt, *, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, tuple[int, ...]]:
        self.go.wait()
        for part in prompt:
            assert isinstance(part, TextPart)
            for _ in range(len(part.text) // 1000):
                self.turns += 1
                yield
        return (len(prompt),)

    def decode(self, ids: Sequence[int]) -> bytes:
        return b""


def ask(call_id: int, size: int) -> TokenizerCall:
    return TokenizerCall(call_id, "tokenize", ((TextPart(text="x" * size),),))


def test_callers_of_the_tokenizer_take_turns_and_may_leave() -> None:
    """A shorter text is answered before a longer one that came first; an abandoned one is never finished."""
    slow = SlowTokenizer()
    tokenizer: Tokenizer = slow
    answered: list[int] = []
    done = threading.Event()

    def answer(result: Result) -> None:
        answered.append(result.call_id)
        if len(answered) == 3:
            done.set()

    calls = Tokenizing(tokenizer, answer)
    try:
        for call_id, size in ((1, 900_000), (2, 300_000), (3, 20_000), (4, 90_000_000)):
            calls.begin(ask(call_id, size))
        calls.give_up(4)
        slow.go.set()
        assert done.wait(10)
        assert answered == [3, 2, 1]
        assert slow.turns < 2000
        time.sleep(0.02)
        assert answered == [3, 2, 1]
    finally:
        calls.close()


@pytest.mark.parametrize(("cut", "ids"), [(True, 11), (False, 0)])
def test_no_more_ids_than_anyone_needs_leave_the_model_s_process(cut: bool, ids: int) -> None:
    """A tokenizer that only takes whole texts has the same limits as one that takes them in pieces."""
    results: Queue[Result] = Queue()
    calls = Tokenizing(FakeTokenizer(), results.put)
    try:
        prompt = (TextPart(text="x" * 100_000),)
        calls.begin(TokenizerCall(1, "tokenize", (prompt,), (), 10, cut))
        result = results.get(timeout=10)
        calls.begin(TokenizerCall(2, "tokenize", ((TextPart(text="x" * 9),),), (), 10, cut))
        assert len(results.get(timeout=10).ids[0]) == 10
    finally:
        calls.close()
    assert (sum(map(len, result.ids)), result.error is None) == (ids, cut)
    if result.error is not None:
        assert result.error.code == "prompt_too_long"
        assert "100001 tokens" in result.error.message


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["x.cpp:12: GGML_ASSERT(n > 0) failed"], "GGML_ASSERT(n > 0) failed"),
        (["/tmp/pip-1/ggml/src/x.cpp:12: GGML_ASSERT(n > 0) failed"], "x.cpp:12: GGML_ASSERT(n > 0) failed"),
        (["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"], "what()"),
        (["thread '<unnamed>' panicked at src/lib.rs:3:5:", "index out of bounds"], "index out of bounds"),
    ],
)
def test_the_reason_of_a_death_is_told(lines: list[str], reason: str) -> None:
    """Native code's last message is reported, however many lines a backtrace adds."""
    output = ChildOutput()
    for line in (*lines, *(f"#{number} frame" for number in range(30))):
        output.add(line.strip())
    assert any(reason in one for one in output.reasons)
    output.add("Fatal Python error: Aborted")
    assert not any(one.startswith("Fatal") for one in output.reasons)
    for number in range(100):
        output.add(f"later line {number}")
    assert output.reasons == []  # it lived on
