"""The generation driver: whole characters, stop strings, limits, usage."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest

from corral.core.errors import PluginError, Unsupported
from corral.core.requests.outputs import (
    ContextShifted,
    Delta,
    Embedded,
    EngineEmbedded,
    EngineFinished,
    EngineOutput,
    Finished,
    Output,
    Prefilled,
    Started,
    Token,
    TokenLogprob,
    Vectors,
)
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, Constraint, ContextPolicy, SamplingParams
from corral.core.stepping.answer_driver import SequenceDriver, TaskDriver
from corral.core.stepping.stop_strings import StopStrings


def request(**sampling: object) -> CompletionRequest:
    return CompletionRequest(prompt=(TextPart(text="x"),), sampling=SamplingParams(**sampling))  # type: ignore[arg-type]


def drive(driver: SequenceDriver, *pieces: bytes, finish: bool = True) -> tuple[list[Output], int]:
    """All outputs, and how many tokens the driver accepted."""
    outputs, done = driver.feed(Prefilled(prompt_tokens=3))
    for count, piece in enumerate(pieces):
        if done:
            return outputs, count
        made, done = driver.feed(Token(token_id=count, piece=piece))
        outputs += made
    if not done and finish:
        made, done = driver.feed(EngineFinished(reason="stop"))
        outputs += made
        assert done
    return outputs, len(pieces)


def texts(outputs: list[Output]) -> list[str]:
    return [output.text for output in outputs if isinstance(output, Delta)]


def last(outputs: list[Output]) -> Finished:
    assert isinstance(outputs[-1], Finished)
    return outputs[-1]


def test_plain_text() -> None:
    """Each token's text is sent with the token, between `Started` and `Finished`."""
    outputs, _ = drive(SequenceDriver(request()), b"Hello", b" world", b"")
    assert outputs[0] == Started(prompt_tokens=3)
    assert texts(outputs) == ["Hello", " world"]
    assert last(outputs).reason == "stop"
    assert last(outputs).usage.generated_tokens == 3


def test_characters_cut_in_two() -> None:
    """A character is sent when its last byte has arrived, and its delta counts all its tokens."""
    outputs, _ = drive(SequenceDriver(request()), "日".encode()[:1], "日".encode()[1:] + b"a", b"b")
    assert texts(outputs) == ["日a", "b"]
    assert [output.token_count for output in outputs if isinstance(output, Delta)] == [2, 1]


def test_bytes_that_are_no_text() -> None:
    """Bytes that can never become a character come out as U+FFFD."""
    outputs, _ = drive(SequenceDriver(request()), b"a\xff", b"b")
    assert "".join(texts(outputs)) == "a\ufffdb"


@pytest.mark.parametrize("stops", [(), ("b\u65e5",)])
@pytest.mark.parametrize("cut", [b"\xe6\x97", b"\xf0\x9f\x98", b"\xc3", b"\xf4"])
@pytest.mark.parametrize("ends_by", ["num_predict", "stop", "length"])
def test_a_character_that_the_end_cuts_off_is_left_out(ends_by: str, cut: bytes, stops: tuple[str, ...]) -> None:
    """However an answer ends, an incomplete character is dropped, and text that was held back is sent."""
    limit = {"num_predict": 3} if ends_by == "num_predict" else {}
    driver = SequenceDriver(request(stop=stops, **limit))
    outputs, _ = drive(driver, b"a", b"b", cut, finish=False)
    if ends_by != "num_predict":
        made, done = driver.feed(EngineFinished(reason="length" if ends_by == "length" else "stop"))
        assert done
        outputs += made
    assert "".join(texts(outputs)) == "ab"
    assert last(outputs).usage.generated_tokens == 3


def test_a_replacement_character_that_was_said_stays() -> None:
    """U+FFFD that the model itself writes is an ordinary character, also at the end and across two tokens."""
    outputs, _ = drive(SequenceDriver(request(num_predict=3)), b"a", b"\xef\xbf", b"\xbd")
    assert "".join(texts(outputs)) == "a\ufffd"


def test_stop_string_across_tokens() -> None:
    """The text before a stop string is sent, but nothing of it or after it, and the token that completes it is the
    last.
    """
    outputs, taken = drive(SequenceDriver(request(stop=("END",))), b"one E", b"N", b"D two", b"three")
    assert "".join(texts(outputs)) == "one "
    assert taken == 3
    assert last(outputs).reason == "stop"
    assert last(outputs).usage.generated_tokens == 3


def test_text_held_back_is_released() -> None:
    """Text that might have become a stop string is sent when it does not, or when the generation ends first."""
    outputs, _ = drive(SequenceDriver(request(stop=("END",))), b"E", b"NE", b"N")
    assert texts(outputs) == ["EN", "EN"]


def test_held_text_at_the_limit() -> None:
    """Text held back is not lost when the length limit ends the sequence."""
    outputs, _ = drive(SequenceDriver(request(stop=("END",), num_predict=2)), b"x", b"EN", b"D")
    assert "".join(texts(outputs)) == "xEN"
    assert last(outputs).reason == "length"


@pytest.mark.parametrize("text", ["xabcy", "xbcy", "ababc", "no stop"])
def test_stops_do_not_depend_on_cuts(text: str) -> None:
    """However the text is split into tokens, it stops at the same place."""
    found = set()
    for cuts in itertools.product([False, True], repeat=len(text) - 1):
        finder, got, stopped = StopStrings(["abc", "bc", "abd"]), "", False
        piece = ""
        for index, character in enumerate(text):
            piece += character
            if index == len(text) - 1 or cuts[index]:
                out, stopped = finder.push(piece)
                got, piece = got + out, ""
                if stopped:
                    break
        found.add((got if stopped else got + finder.flush(), stopped))
    assert len(found) == 1


def test_a_long_stop_string_costs_no_memory() -> None:
    """A stop string of any length is found across tokens, and no more text than its length is held back."""
    stop = "ab" * 50_000
    tracemalloc.start()
    try:
        finder = StopStrings([stop])
        assert finder.push("x" + stop[:-1]) == ("x", False)
        assert finder.push("b!") == ("", True)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(stop)
    finally:
        tracemalloc.stop()


def test_num_predict() -> None:
    """The limit ends the sequence in the step that reached it."""
    outputs, taken = drive(SequenceDriver(request(num_predict=2)), b"a", b"b", b"c")
    assert (texts(outputs), taken) == (["a", "b"], 2)
    assert last(outputs).reason == "length"


def test_end_of_text_at_the_limit() -> None:
    """If the limit is reached by the token that ends the text, the reason is ``stop``."""
    outputs, _ = drive(SequenceDriver(request(num_predict=2)), b"a", b"")
    assert last(outputs).reason == "stop"


def test_silent_token_at_the_limit() -> None:
    """If a token without text that is not an end reaches the limit, the next one is not counted."""
    outputs, _ = drive(SequenceDriver(request(num_predict=2)), b"a", b"", b"c")
    assert texts(outputs) == ["a"]
    assert last(outputs).reason == "length"
    assert last(outputs).usage.generated_tokens == 2


def test_num_predict_zero() -> None:
    """Nothing is generated, but the prompt is computed, and the reason is ``length``."""
    outputs, taken = drive(SequenceDriver(request(num_predict=0)), b"a")
    assert taken == 0
    assert [type(output) for output in outputs] == [Started, Finished]
    assert last(outputs).reason == "length"


def test_no_limit_is_ten_contexts() -> None:
    """Without `num_predict`, or with a larger one, an answer ends after ten contexts."""
    for num_predict in (None, 1000):
        call = CompletionRequest(
            prompt=(), sampling=SamplingParams(num_predict=num_predict), context=ContextPolicy(num_ctx=4)
        )
        _, taken = drive(SequenceDriver(call, context_length=100), *[b"a"] * 50)
        assert taken == 40


def test_times() -> None:
    """Prefill lasts until `Prefilled`, decoding from there to the end, by the clock that is given."""
    clock = iter([100, 130, 190])
    outputs, _ = drive(SequenceDriver(request(), clock_ns=lambda: next(clock)), b"a")
    assert (last(outputs).usage.prefill_ns, last(outputs).usage.decode_ns) == (30, 60)


def test_time_in_the_queue_is_not_prefill() -> None:
    """It lasts from the request's arrival until the engine begins, as reported by the loop or the engine."""
    clock = iter([100, 130, 160, 200])
    driver = SequenceDriver(request(), clock_ns=lambda: next(clock), arrived_ns=70)
    driver.begin()  # at 130
    driver.feed(Prefilled(prompt_tokens=3))  # at 160
    outputs, _ = driver.feed(EngineFinished(reason="stop"))  # at 200
    usage = last(outputs).usage
    assert (usage.queued_ns, usage.prefill_ns, usage.decode_ns) == (60, 30, 40)


@pytest.mark.parametrize(("told", "queued", "prefill"), [(10, 50, 10), (None, 0, 60), (1000, 0, 60)])
def test_an_engine_tells_how_long_a_prompt_took(told: int | None, queued: int, prefill: int) -> None:
    """The rest is time in the queue; prefill never begins before the request arrives."""
    clock = iter([100, 160, 200])
    driver = SequenceDriver(request(), clock_ns=lambda: next(clock))
    driver.feed(Prefilled(prompt_tokens=3, prefill_ns=told))
    outputs, _ = driver.feed(EngineFinished(reason="stop"))
    usage = last(outputs).usage
    assert (usage.queued_ns, usage.prefill_ns, usage.decode_ns) == (queued, prefill, 40)


def test_logprobs_pass_at_once() -> None:
    """Log-probabilities are sent with their token, even if its text is held back."""
    driver = SequenceDriver(request(stop=("END",)))
    driver.feed(Prefilled(prompt_tokens=1))
    logprob = TokenLogprob(token=b"E", logprob=-0.5)
    assert driver.feed(Token(token_id=1, piece=b"E", logprob=logprob)) == (
        [Delta(text="", token_count=1, logprobs=(logprob,))],
        False,
    )


def test_what_was_dropped_is_added_up() -> None:
    """The last output counts what was cut from the prompt, and what the context lost while the answer came."""
    driver = SequenceDriver(request())
    driver.feed(Prefilled(prompt_tokens=2, dropped_tokens=5))
    for _ in range(2):
        assert driver.feed(ContextShifted(dropped_tokens=10)) == ([], False)
    outputs, _ = driver.feed(EngineFinished(reason="stop"))
    assert last(outputs).dropped_tokens == 25


def test_token_ids() -> None:
    """The ids of prompt and answer are part of the last output, if requested."""
    driver = SequenceDriver(CompletionRequest(prompt=(), return_token_ids=True))
    driver.feed(Prefilled(prompt_tokens=2, prompt_ids=(7, 8)))
    driver.feed(Token(token_id=9, piece=b"a"))
    outputs, _ = driver.feed(EngineFinished(reason="stop"))
    assert last(outputs).token_ids == (7, 8, 9)


def test_constraints_without_a_mask_are_refused() -> None:
    """A grammar is refused rather than ignored."""
    with pytest.raises(Unsupported):
        SequenceDriver(CompletionRequest(prompt=(), constraint=Constraint(kind="regex", source="a")))


class Mask:
    """A mask that enforces part of what was requested."""

    ignored = ("format: one thing",)
    warnings = ("format: cut short",)

    def allowed(self) -> bytes | None:
        return None

    def accept(self, token_id: int) -> None: ...

    def limit(self, tokens: int) -> None:
        self.most = tokens


@pytest.mark.parametrize(("num_predict", "num_ctx", "most"), [(5, 100, 5), (None, 100, 90), (95, 100, 90), (9, 0, 9)])
def test_a_mask_learns_how_long_the_answer_may_be(num_predict: int | None, num_ctx: int, most: int) -> None:
    """As many tokens as the request asks for, or as the context has room for without a shift."""
    mask = Mask()
    sampling = SamplingParams(num_predict=num_predict)
    constrained = CompletionRequest(prompt=(), sampling=sampling, constraint=Constraint(kind="regex", source="a"))
    SequenceDriver(constrained, context_length=num_ctx or None, mask=mask).feed(Prefilled(prompt_tokens=10))
    assert mask.most == most


def test_what_a_mask_does_not_hold_to_is_told() -> None:
    """Parts of a grammar that have no effect are reported with the options that the engine ignores."""
    constrained = CompletionRequest(prompt=(), constraint=Constraint(kind="regex", source="a"))
    driver = SequenceDriver(constrained, mask=Mask())
    outputs, _ = driver.feed(Prefilled(prompt_tokens=3, ignored_options=("mirostat",)))
    assert isinstance(outputs[0], Started)
    assert outputs[0].ignored_options == ("mirostat", "format: one thing")


def test_what_a_mask_says_at_the_end_is_told() -> None:
    """A text that had to be completed early is known by a warning."""
    constrained = CompletionRequest(prompt=(), constraint=Constraint(kind="regex", source="a"))
    driver = SequenceDriver(constrained, mask=Mask())
    driver.feed(Prefilled(prompt_tokens=3))
    outputs, over = driver.feed(EngineFinished(reason="stop"))
    assert over
    assert isinstance(outputs[-1], Finished)
    assert outputs[-1].warnings == ("format: cut short",)


def test_a_foreign_output() -> None:
    """An output that does not belong to a completion is an error of the engine, and says so."""
    with pytest.raises(PluginError, match="EngineOutput"):
        SequenceDriver(request()).feed(EngineOutput())


def test_embeddings() -> None:
    """Vectors are passed on and end the request."""
    vectors = Vectors(dimensions=1, float32=b"\0\0\0\0")
    assert TaskDriver().feed(EngineEmbedded(vectors=vectors, prompt_tokens=1)) == (
        [Embedded(vectors=vectors, prompt_tokens=1)],
        True,
    )
