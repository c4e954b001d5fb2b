"""Samplers that take long to create, with real weights: created beside the steps, cached by content, with the same
texts as otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.sequences import LlamaSequence
from corral.adapters.runners.frames import Abort, Add, Close
from corral.adapters.runners.stepping import Command, Stepper
from corral.core.errors import EngineDied, ErrorInfo
from corral.core.requests.outputs import Delta, Finished, Output
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, Request, SamplingParams
from corral.core.stepping.loops import Outcome, StepLoop
from tests.contracts.llama_engines import loaded_engine

pytestmark = pytest.mark.native

# Each ends many tokens, and what is left of it is tokenized for each of them.
SLOW = tuple(letter * 40 for letter in "aeiourstnl")


def make(path: Path) -> LlamaCppEngine:
    return loaded_engine(path, options={"num_ctx": 512, "num_parallel": 2})


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[LlamaCppEngine]:
    made = make(smollm2)
    yield made
    made.close()


def ask(num_predict: int = 8, **sampling: object) -> CompletionRequest:
    params = SamplingParams(temperature=0.0, num_predict=num_predict, **sampling)  # type: ignore[arg-type]
    return CompletionRequest(
        prompt=(TextPart(text="The sea is wide. The sea is wide. The sea is wide. The sea is"),), sampling=params
    )


def dry(*breakers: str, multiplier: float = 8.0) -> CompletionRequest:
    return ask(dry_multiplier=multiplier, dry_sequence_breakers=breakers)


def answers(
    engine: LlamaCppEngine, *requests: CompletionRequest, ended: Callable[[int], object] = lambda number: None
) -> tuple[list[str], list[int]]:
    """The texts, and the order in which the requests ended."""
    inbox: SimpleQueue[Command] = SimpleQueue()
    texts = [""] * len(requests)
    order: list[int] = []
    for number, request in enumerate(requests):
        inbox.put(Add(number, request))

    def take(outcomes: list[Outcome]) -> None:
        item: Output | ErrorInfo
        for number, item in outcomes:
            if isinstance(item, Delta):
                texts[number] += item.text
            elif isinstance(item, Finished | ErrorInfo):
                assert isinstance(item, Finished), item
                order.append(number)
                ended(number)
                if len(order) == len(requests):
                    inbox.put(Close())

    Stepper(StepLoop(engine), inbox, take).run()
    return texts, order


def test_sequence_breakers_hold_nobody_up(engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that arrives after one with slow sequence breakers has its whole answer before that one begins."""
    assert engine.needs_preparing(dry(*SLOW))
    assert not engine.needs_preparing(ask())
    prepare, answered = engine.prepare, threading.Event()

    def prepare_last(request: Request) -> LlamaSequence:
        prepared = prepare(request)
        assert answered.wait(600)
        return prepared

    monkeypatch.setattr(engine, "prepare", prepare_last)
    _, order = answers(engine, dry(*SLOW), ask(8), ended=lambda number: answered.set() if number == 1 else None)
    assert order == [1, 0]


def test_sequence_breakers_are_worked_out_once(engine: LlamaCppEngine) -> None:
    """A request with known parameters starts at once, and its answer is the same."""
    request = dry("\n", ":", "b")
    [first], _ = answers(engine, request)
    assert not engine.needs_preparing(request)
    assert engine.needs_preparing(dry("\n", ":", "b", multiplier=9.0))
    assert answers(engine, request, request)[0] == [first, first]
    assert first != answers(engine, ask())[0][0]


def test_long_biased_texts_are_prepared(engine: LlamaCppEngine) -> None:
    """Texts that take time to tokenize are tokenized beside the steps, with the same effect as short ones."""
    long = ask(logit_bias=((" wide" * 300, -100.0),))
    assert engine.needs_preparing(long)
    short = ask(logit_bias=((" wide", -100.0),))
    assert not engine.needs_preparing(short)
    [text, banned], _ = answers(engine, long, short)
    assert " wide" not in text + banned


def test_a_model_outlives_a_preparation(smollm2: Path) -> None:
    """Closing the engine waits for other threads that read its vocabulary; later reads are refused."""
    engine = make(smollm2)
    prepared: list[object] = []
    begun = threading.Thread(target=lambda: prepared.append(engine.prepare(dry(*SLOW))))
    begun.start()
    while not engine._preparing._count and not prepared:
        pass
    engine.close()
    assert len(prepared) == 1
    begun.join(10)
    with pytest.raises(EngineDied):
        engine.prepare(dry("x"))


def test_an_aborted_preparation_leaves_the_rest(engine: LlamaCppEngine) -> None:
    """A request that is aborted during its preparation never starts; others do."""
    inbox: SimpleQueue[Command] = SimpleQueue()
    ended: list[int] = []

    def take(outcomes: list[Outcome]) -> None:
        for number, item in outcomes:
            if isinstance(item, Finished):
                ended.append(number)
                inbox.put(Close())

    unknown = dry(*SLOW[1:])
    assert engine.needs_preparing(unknown)
    inbox.put(Add(1, unknown))
    inbox.put(Abort(1))
    inbox.put(Add(2, ask()))
    Stepper(StepLoop(engine), inbox, take).run()
    assert ended == [2]
