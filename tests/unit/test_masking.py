"""A request whose constraint is being compiled: it joins the engine's loop later, and nobody waits for it."""

from __future__ import annotations

import json
import threading
from queue import SimpleQueue

from corral.adapters.engines.fake import FakeEngine, FakeLoadOptions, FakeTokenizer
from corral.adapters.runners.frames import Abort, Add, Close
from corral.adapters.runners.masking import Masking
from corral.adapters.runners.stepping import Command, Stepper
from corral.core.errors import ErrorInfo
from corral.core.outputs import Delta, Finished, Output
from corral.core.ports.inference import Vocabulary
from corral.core.requests import CompletionRequest, Constraint, SamplingParams, TextPart
from corral.core.step_loop import Outcome, StepLoop

ONE_OF_TWO = Constraint(kind="json_schema", source='{"enum": ["alpha", "beta"]}')


def request(constraint: Constraint | None = None) -> CompletionRequest:
    sampling = SamplingParams(temperature=0.0)
    return CompletionRequest(prompt=(TextPart(text="x"),), sampling=sampling, constraint=constraint)


class SlowTokenizer(FakeTokenizer):
    """Shows its vocabulary when it is let."""

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
    """A loop that turns in a thread, and what it delivered."""

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
    """One that is aborted while its grammar is compiled gets nothing, and its number may be used again."""
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
    """What is wrong with a constraint reaches its caller, and the loop goes on."""
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
    """A request that is given up while others' masks are made does not hold up those behind it."""
    engine = SlowEngine()
    done: SimpleQueue[int] = SimpleQueue()
    masking = Masking(engine.info, engine.tokenizer, lambda masked: done.put(masked.request_id))
    give_ups = [masking.begin(number, request(ONE_OF_TWO), ONE_OF_TWO) for number in (1, 2, 3)]
    give_ups[1]()
    engine.slow.let.set()
    assert [done.get(timeout=10), done.get(timeout=10)] == [1, 3]
    masking.close()
