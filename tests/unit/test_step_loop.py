"""The loops that runners run: engines that misbehave, requests that end."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions
from corral.core.errors import ErrorInfo
from corral.core.ports.running import ModelInfo
from corral.core.ports.tokens import TokenMask
from corral.core.requests.outputs import Delta, EngineFinished, EngineOutput, Finished, Output, Prefilled, Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import ChatRequest, CompletionRequest, Request, SamplingParams
from corral.core.stepping.loops import EngineLoop, GeneratorLoop, StepLoop


def request(**sampling: object) -> CompletionRequest:
    return CompletionRequest(prompt=(TextPart(text="x"),), sampling=SamplingParams(**sampling))  # type: ignore[arg-type]


def finish(loop: EngineLoop) -> dict[int, list[Output | ErrorInfo]]:
    outcomes: dict[int, list[Output | ErrorInfo]] = {}
    while loop.unfinished():
        for request_id, item in loop.step():
            outcomes.setdefault(request_id, []).append(item)
    return outcomes


class Forgetful(FakeEngine):
    """An engine that silently forgets its requests."""

    def step(self) -> list[tuple[int, EngineOutput]]:
        self.close()
        return []


class Words:
    """A generator engine that knows three words, one of which makes it fail."""

    info = ModelInfo(tasks=frozenset({"completion"}))
    tokenizer = None

    def __init__(self, words: Sequence[str] = ("a", "b", "c")) -> None:
        self.words = words
        self.closed = 0

    def run(self, request: Request, mask: TokenMask | None) -> Generator[EngineOutput | None, None, None]:
        try:
            yield Prefilled(prompt_tokens=1)
            for word in self.words:
                if word == "!":
                    raise ValueError("a bad word")
                yield Token(token_id=None, piece=word.encode())
        finally:
            self.closed += 1

    def close(self) -> None:
        pass


def test_a_stop_string_aborts_in_the_same_step() -> None:
    """Nothing is computed for a sequence after the step in which its stop string came."""
    engine = FakeEngine(FakeLoadOptions(answer="one two three four"))
    loop = StepLoop(engine)
    loop.add(1, request(stop=("two",)))
    outcomes = finish(loop)[1]
    assert isinstance(outcomes[-1], Finished)
    assert outcomes[-1].usage.generated_tokens == 2
    assert not engine.has_unfinished_requests()


class Hasty(FakeEngine):
    """An engine that returns all the rest of its answers in one step."""

    def step(self) -> list[tuple[int, EngineOutput]]:
        outputs: list[tuple[int, EngineOutput]] = []
        while self.has_unfinished_requests():
            outputs += super().step()
        return outputs


def test_several_tokens_in_a_step() -> None:
    """Each counts as if it came alone: stop strings and limits end the answer, and nothing after them is in it."""
    cases = [
        (request(stop=("two",)), "one ", "stop", 2),
        (request(num_predict=3), "one two more", "length", 3),
        (request(), "one two more time", "stop", 5),
    ]
    engine = Hasty(FakeLoadOptions(answer="one two more time"))
    loop = StepLoop(engine)
    for number, (asked, *_) in enumerate(cases):
        loop.add(number, asked)
    outcomes = finish(loop)
    for number, (_, text, reason, tokens) in enumerate(cases):
        *deltas, end = outcomes[number]
        assert isinstance(end, Finished)
        assert (end.reason, end.usage.generated_tokens) == (reason, tokens)
        assert "".join(item.text for item in deltas if isinstance(item, Delta)) == text
    assert not engine.has_unfinished_requests()


def test_a_request_that_waits_for_its_turn_is_queued() -> None:
    """One request at a time: the second begins when the first has ended, and its queue time says so."""
    loops: tuple[EngineLoop, ...] = (StepLoop(FakeEngine(FakeLoadOptions(parallel=1))), GeneratorLoop(Words()))
    for loop in loops:
        loop.add(1, request())
        loop.add(2, request())
        outcomes = finish(loop)
        usages = [end.usage for end in (outcomes[1][-1], outcomes[2][-1]) if isinstance(end, Finished)]
        assert usages[1].queued_ns >= usages[0].decode_ns > 0  # which it waited for


def test_a_refused_request() -> None:
    """A request that the engine refuses gets its error from the next step, and others run."""
    loop = StepLoop(FakeEngine(FakeLoadOptions()))
    loop.add(1, ChatRequest(messages=()))
    loop.add(2, request())
    outcomes = finish(loop)
    assert [type(item) for item in outcomes[1]] == [ErrorInfo]
    assert isinstance(outcomes[2][-1], Finished)


def test_a_forgotten_request() -> None:
    """A request that the engine has lost ends with an error instead of hanging."""
    loop = StepLoop(Forgetful(FakeLoadOptions()))
    loop.add(1, request())
    [error] = finish(loop)[1]
    assert isinstance(error, ErrorInfo)
    assert error.code == "plugin_error"


def test_abort_then_nothing() -> None:
    """After an abort nothing remains unfinished."""
    loop = StepLoop(FakeEngine(FakeLoadOptions()))
    loop.add(1, request())
    loop.step()
    loop.abort(1)
    loop.abort(7)
    loop.add(2, ChatRequest(messages=()))
    loop.abort(2)
    assert not loop.unfinished()


def test_generator_requests_run_in_order() -> None:
    """One request at a time; a generator that just ends has stopped."""
    loop = GeneratorLoop(Words())
    loop.add(1, request())
    loop.add(2, request(num_predict=1))
    outcomes = finish(loop)
    assert list(outcomes) == [1, 2]
    assert [item.text for item in outcomes[1] if isinstance(item, Delta)] == ["a", "b", "c"]
    first, second = outcomes[1][-1], outcomes[2][-1]
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert (first.reason, second.reason) == ("stop", "length")


def test_generator_that_raises() -> None:
    """What a generator raises fails its own request, with its class and text; the next one runs."""
    loop = GeneratorLoop(Words(["a", "!"]))
    loop.add(1, request())
    loop.add(2, request(num_predict=1))
    outcomes = finish(loop)
    text = "a bad word"
    raised = ErrorInfo(code="engine_error", message=f"the engine raised ValueError: {text}", quoted=text)
    assert outcomes[1][-1] == raised
    assert isinstance(outcomes[2][-1], Finished)


def test_generator_abort_closes_it() -> None:
    """Aborting the running request closes its generator; aborting a waiting one takes it from the queue."""
    engine = Words()
    loop = GeneratorLoop(engine)
    loop.add(1, request())
    loop.add(2, request())
    loop.step()
    loop.abort(1)
    loop.abort(2)
    assert engine.closed == 1
    assert not loop.unfinished()


def test_generator_that_has_nothing_yet() -> None:
    """None from a generator is a step without an outcome: between two of them the request can be aborted."""

    class Slow(Words):
        def run(self, request: Request, mask: TokenMask | None) -> Generator[EngineOutput | None, None, None]:
            yield None
            yield from super().run(request, mask)

    loop = GeneratorLoop(Slow())
    loop.add(1, request())
    assert loop.step() == []
    assert loop.unfinished()
    assert isinstance(finish(loop)[1][-1], Finished)


def test_outputs_after_the_end_are_dropped() -> None:
    """Further outputs of a request that a stop string has ended are dropped."""

    class Eager(FakeEngine):
        def step(self) -> list[tuple[int, EngineOutput]]:
            self.close()
            tokens = [(1, Token(token_id=1, piece=piece)) for piece in (b"a", b"stop", b"b")]
            return [(1, Prefilled(prompt_tokens=1)), *tokens, (1, EngineFinished(reason="stop"))]

    loop = StepLoop(Eager(FakeLoadOptions()))
    loop.add(1, request(stop=("stop",)))
    outcomes = finish(loop)[1]
    assert [item.text for item in outcomes if isinstance(item, Delta)] == ["a"]
    assert isinstance(outcomes[-1], Finished)
