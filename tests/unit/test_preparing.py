"""A request that takes time to prepare joins the engine's loop later, and no other request waits for it."""

from __future__ import annotations

import json
import threading
import time
from queue import SimpleQueue

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions, FakeTokenizer
from corral.adapters.runners.frames import Abort, Add, Close
from corral.adapters.runners.preparing import Preparing
from corral.adapters.runners.stepping import Command, Stepper
from corral.core.errors import ErrorInfo, InvalidOption
from corral.core.lru import SizedLruDict
from corral.core.ports.engines import Prepared
from corral.core.ports.tokens import TokenMask, Vocabulary
from corral.core.requests.outputs import Delta, Finished, Output
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, Constraint, Request, SamplingParams
from corral.core.stepping.loops import Outcome, StepLoop

ONE_OF_TWO = Constraint(kind="json_schema", source='{"enum": ["alpha", "beta"]}')


def request(constraint: Constraint | None = None) -> CompletionRequest:
    sampling = SamplingParams(temperature=0.0)
    return CompletionRequest(prompt=(TextPart(text="x"),), sampling=sampling, constraint=constraint)


class SlowTokenizer(FakeTokenizer):
    """A tokenizer whose vocabulary becomes available only when the test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def vocabulary(self) -> Vocabulary:
        assert self.let.wait(10)
        return super().vocabulary()


class SlowEngine(FakeEngine):
    """The fake engine with a tokenizer that takes its time."""

    def __init__(self) -> None:
        super().__init__(FakeLoadOptions(answer="no"))
        self.slow = SlowTokenizer()

    @property
    def tokenizer(self) -> SlowTokenizer:
        return self.slow


class Turning:
    """A loop that runs in a thread, and what it delivered."""

    def __init__(self, engine: FakeEngine) -> None:
        self.inbox: SimpleQueue[Command] = SimpleQueue()
        self.items: dict[int, list[Output | ErrorInfo]] = {}
        self._ended: dict[int, threading.Event] = {}
        self._thread = threading.Thread(target=Stepper(StepLoop(engine), self.inbox, self._take).run)
        self._thread.start()

    def add(self, request_id: int, request: CompletionRequest) -> None:
        self.items[request_id] = []
        self._ended[request_id] = threading.Event()
        self.inbox.put(Add(request_id, request))

    def answer(self, request_id: int) -> str | ErrorInfo:
        """The text once it is complete, or the error."""
        assert self._ended[request_id].wait(10)
        *parts, last = self.items[request_id]
        if isinstance(last, ErrorInfo):
            return last
        return "".join(part.text for part in parts if isinstance(part, Delta))

    def close(self) -> None:
        self.inbox.put(Close())
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _take(self, outcomes: list[Outcome]) -> None:
        for request_id, item in outcomes:
            self.items[request_id].append(item)
            if isinstance(item, Finished | ErrorInfo):
                self._ended[request_id].set()


def test_others_go_on_while_a_grammar_is_compiled() -> None:
    """A request without a constraint is answered meanwhile; the other one afterwards, as its grammar says."""
    engine = SlowEngine()
    turning = Turning(engine)
    try:
        turning.add(1, request(ONE_OF_TWO))
        turning.add(2, request())
        assert turning.answer(2) == "no"
        assert turning.items[1] == []
        engine.slow.let.set()
        assert turning.answer(1) == '"alpha"'
    finally:
        engine.slow.let.set()
        turning.close()


def test_an_aborted_request_is_not_taken_in_later() -> None:
    """One that is aborted while its grammar is compiled has no output, and its id may be used again."""
    engine = SlowEngine()
    turning = Turning(engine)
    try:
        turning.add(1, request(ONE_OF_TWO))
        turning.inbox.put(Abort(1))
        turning.add(2, request(ONE_OF_TWO))
        engine.slow.let.set()
        assert turning.answer(2) == '"alpha"'
        assert turning.items[1] == []
    finally:
        engine.slow.let.set()
        turning.close()


def test_closing_does_not_wait_for_a_grammar() -> None:
    """The loop ends while one is still being compiled."""
    engine = SlowEngine()
    turning = Turning(engine)
    try:
        turning.add(1, request(ONE_OF_TWO))
    finally:
        turning.close()
        engine.slow.let.set()


def test_a_wrong_grammar_is_the_answer() -> None:
    """An error in a constraint reaches its caller, and the loop continues."""
    turning = Turning(FakeEngine(FakeLoadOptions(answer="no")))
    try:
        turning.add(1, request(Constraint(kind="json_schema", source=json.dumps({"type": "strin"}))))
        error = turning.answer(1)
        assert isinstance(error, ErrorInfo)
        assert (error.code, error.message) == (
            "invalid_request",
            "the JSON schema cannot be used: Invalid type: strin",
        )
        turning.add(2, request())
        assert turning.answer(2) == "no"
    finally:
        turning.close()


def test_an_engine_without_logits_says_so() -> None:
    """A model that lacks the feature refuses a constraint rather than ignore it."""
    engine = FakeEngine(FakeLoadOptions(answer="no"))
    engine.info = type(engine.info)(tasks=engine.info.tasks)
    turning = Turning(engine)
    try:
        turning.add(1, request(ONE_OF_TWO))
        error = turning.answer(1)
        assert isinstance(error, ErrorInfo)
        assert error.code == "unsupported"
    finally:
        turning.close()


def test_what_was_aborted_is_not_compiled() -> None:
    """A request that is cancelled before its turn does not hold up those behind it."""
    engine = SlowEngine()
    done: SimpleQueue[int] = SimpleQueue()
    preparing = Preparing(StepLoop(engine), lambda one: done.put(one.request_id))
    begun = [preparing.begin(number, request(ONE_OF_TWO)) for number in range(12)]
    assert begun[10] is not None
    preparing.give_up(begun[10])
    engine.slow.let.set()
    assert sorted(done.get(timeout=10) for _ in range(11)) == [*range(10), 11]
    preparing.close()


class Part:
    """What was prepared for a request, and whether it was freed."""

    def __init__(self, request: CompletionRequest) -> None:
        self.request = request
        self.ready = threading.Event()
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class PreparingFake(FakeEngine):
    """The fake engine; requests with a bias take as long to prepare as the test chooses."""

    def __init__(self, tokenizer: FakeTokenizer | None = None) -> None:
        super().__init__(FakeLoadOptions(answer="no"))
        self.parts: list[Part] = []
        self.taken: list[Prepared] = []
        self.fail = False
        if tokenizer is not None:
            self._tokenizer = tokenizer

    def needs_preparing(self, request: Request) -> bool:
        assert isinstance(request, CompletionRequest)
        return bool(request.sampling.logit_bias)

    def prepare(self, request: Request) -> Prepared:
        assert isinstance(request, CompletionRequest)
        part = Part(request)
        self.parts.append(part)
        assert part.ready.wait(10)
        if self.fail:
            raise InvalidOption("logit_bias: no")
        return part

    def add_prepared(self, request_id: int, prepared: Prepared, mask: TokenMask | None) -> None:
        assert isinstance(prepared, Part)
        self.taken.append(prepared)
        self.add_request(request_id, prepared.request, mask)


def biased(constraint: Constraint | None = None) -> CompletionRequest:
    sampling = SamplingParams(temperature=0.0, logit_bias=((1, 0.5),))
    return CompletionRequest(prompt=(TextPart(text="x"),), sampling=sampling, constraint=constraint)


def wait_for(count: int, things: list[Part]) -> None:
    deadline = time.monotonic() + 10
    while len(things) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_engines_own_preparation_holds_nobody_up() -> None:
    """Others are answered while a request is prepared; then the engine gets it with the result and its mask."""
    engine = PreparingFake()
    turning = Turning(engine)
    try:
        turning.add(1, biased())
        turning.add(2, biased(ONE_OF_TWO))
        turning.add(3, request())
        turning.add(4, request(ONE_OF_TWO))
        assert turning.answer(3) == "no"
        assert turning.answer(4) == '"alpha"'
        assert turning.items[1] == turning.items[2] == []
        wait_for(2, engine.parts)
        for part in engine.parts:
            part.ready.set()
        assert turning.answer(1) == "no"
        assert turning.answer(2) == '"alpha"'
        assert set(engine.taken) == set(engine.parts)  # whichever was ready first
        assert not any(part.closed.is_set() for part in engine.parts)
    finally:
        turning.close()


def test_what_was_prepared_for_nothing_is_freed() -> None:
    """A request aborted meanwhile leaves nothing, and another with the same id gets its own preparation."""
    engine = PreparingFake()
    turning = Turning(engine)
    try:
        turning.add(1, biased())
        wait_for(1, engine.parts)
        turning.inbox.put(Abort(1))
        turning.add(1, biased())
        wait_for(2, engine.parts)
        engine.parts[1].ready.set()
        assert turning.answer(1) == "no"
        engine.parts[0].ready.set()
        assert engine.parts[0].closed.wait(10)
        assert engine.taken == engine.parts[1:]
    finally:
        turning.close()


def test_what_is_wrong_with_a_preparation_is_the_answer() -> None:
    """Its error reaches the caller as that of `add_request` does."""
    engine = PreparingFake()
    engine.fail = True
    turning = Turning(engine)
    try:
        turning.add(1, biased())
        wait_for(1, engine.parts)
        engine.parts[0].ready.set()
        error = turning.answer(1)
        assert isinstance(error, ErrorInfo)
        assert (error.code, error.message) == ("invalid_option", "logit_bias: no")
    finally:
        turning.close()


def test_what_is_prepared_for_a_model_that_is_closed_is_freed() -> None:
    """Whether preparation was running, done, or waiting for the mask that goes with it."""
    engine = PreparingFake()
    turning = Turning(engine)
    turning.add(1, biased())
    turning.add(2, biased(ONE_OF_TWO))
    wait_for(2, engine.parts)
    turning.close()
    for part in engine.parts:
        part.ready.set()
        assert part.closed.wait(10)
    assert engine.taken == []


def test_what_waits_for_its_mask_is_freed_when_it_is_given_up() -> None:
    """A request that is aborted while others' grammars are compiled leaves nothing behind."""
    tokenizer = SlowTokenizer()
    engine = PreparingFake(tokenizer)
    preparing = Preparing(StepLoop(engine), lambda one: None)
    try:
        for number in range(4):  # every thread that makes masks is busy
            preparing.begin(number, request(ONE_OF_TWO))
        waiting = preparing.begin(4, biased(ONE_OF_TWO))
        assert waiting is not None
        engines_job = waiting._job
        wait_for(1, engine.parts)
        engine.parts[0].ready.set()
        deadline = time.monotonic() + 10
        while waiting._job is engines_job:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        preparing.give_up(waiting)
        assert engine.parts[0].closed.is_set()
    finally:
        tokenizer.let.set()
        preparing.close()


def test_an_engine_that_breaks_on_preparing_answers_that_request() -> None:
    """The error is the answer to the request that caused it; others continue."""

    class Breaking(PreparingFake):
        def needs_preparing(self, request: Request) -> bool:
            if super().needs_preparing(request):
                raise ZeroDivisionError("oops")
            return False

    turning = Turning(Breaking())
    try:
        turning.add(1, biased())
        turning.add(2, request())
        error = turning.answer(1)
        assert isinstance(error, ErrorInfo)
        assert error.message == "the engine raised ZeroDivisionError: oops"
        assert turning.answer(2) == "no"
    finally:
        turning.close()


def test_the_least_used_is_forgotten() -> None:
    """The latest entries are kept, up to a total size; an entry larger than that is not kept."""
    kept: SizedLruDict[str, int] = SizedLruDict(10)
    for number, key in enumerate("abc"):
        kept.put(key, number, 4)
    assert [kept.get(key) for key in "abc"] == [None, 1, 2]
    kept.put("b", 5, 10)
    assert [kept.get(key) for key in "abc"] == [None, 5, None]
    kept.put("b", 6, 11)
    assert kept.get("b") is None
