"""The llama.cpp engine grows and shrinks, with real weights: answers go on, bit by bit the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.loader import load
from corral.core.requests.outputs import EngineFailed, EngineFinished, EngineOutput, Prefilled, Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, ContextPolicy, SamplingParams
from corral.core.specs.engines import LoadRequest, LocalFile

pytestmark = pytest.mark.native

WORDS = ("harbour", "lantern", "captain", "winter", "mountain", "letter", "garden", "river")
GIB = 2**30
Numbers = list[tuple[int | None, float]]


def make(path: Path, **options: object) -> LlamaCppEngine:
    request = LoadRequest(
        model="test",
        files=(LocalFile(role="weights", path=str(path)),),
        load_options={"num_ctx": 2048, "num_thread": 1, **options},
    )
    engine = load(request, lambda share: None)
    assert isinstance(engine, LlamaCppEngine)
    return engine


def ask(text: str, *, num_ctx: int | None = None) -> CompletionRequest:
    return CompletionRequest(
        prompt=(TextPart(text=text),),
        sampling=SamplingParams(temperature=0.8, seed=7, ignore_eos=True),
        context=ContextPolicy(num_ctx=num_ctx, shift=False),
        logprobs=1,
    )


class Run:
    """Requests of one engine and what they got. Each is aborted after `limit` tokens."""

    def __init__(self, engine: LlamaCppEngine, limit: int) -> None:
        self.engine = engine
        self.limit = limit
        self.numbers: dict[int, Numbers] = {}
        self.errors: dict[int, str] = {}
        self.cached: dict[int, int] = {}
        self.ended: list[int] = []

    def add(self, request: CompletionRequest) -> int:
        request_id = len(self.numbers)
        self.numbers[request_id] = []
        self.engine.add_request(request_id, request, None)
        return request_id

    def step(self) -> None:
        for request_id, output in self.engine.step():
            self._take(request_id, output)

    def _take(self, request_id: int, output: EngineOutput) -> None:
        mine = self.numbers[request_id]
        if isinstance(output, EngineFailed):
            self.errors[request_id] = output.error.code
        elif isinstance(output, Prefilled):
            self.cached[request_id] = output.cached_tokens
        elif isinstance(output, EngineFinished):
            self.ended.append(request_id)
        elif isinstance(output, Token) and len(mine) < self.limit:
            assert output.logprob is not None
            mine.append((output.token_id, output.logprob.logprob))
            if len(mine) == self.limit:
                self.engine.abort_request(request_id)
                self.ended.append(request_id)

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert self.engine.has_unfinished_requests()
            self.step()

    def finish(self) -> list[Numbers]:
        while self.engine.has_unfinished_requests():
            self.step()
        return list(self.numbers.values())


def size(engine: LlamaCppEngine) -> tuple[int, int]:
    """Streams, and cells of each, as the engine says."""
    streams, _, rest = engine.info.details["streams"].partition(" x ")
    return int(streams), int(rest.split()[0])


def idle_until(engine: LlamaCppEngine, wanted: tuple[int, int]) -> None:
    while size(engine) != wanted:
        assert engine.idle() is not None, size(engine)


@pytest.fixture(scope="module")
def weights(shallow: Callable[[str], Path]) -> Path:
    return shallow("Q4_1")


@pytest.fixture
def engine(weights: Path) -> Iterator[LlamaCppEngine]:
    engine = make(weights)
    yield engine
    engine.close()


@pytest.mark.parametrize(("kind", "fewest"), [("Q4_1", 1), ("Q8_0", 1), ("F16", 2)])
def test_answers_go_on_across_every_growth(kind: str, fewest: int, shallow: Callable[[str], Path]) -> None:
    """A model starts with one stream, or two if no row may be computed alone, and grows to eight as requests come: in
    every answer, token ids and log-probabilities are those of a model that had as many streams and cells before."""
    requests = [ask(f"Tell me about the {word}.") for word in WORDS]
    fixed = make(shallow(kind), num_parallel=8, num_ctx=512)
    expected = Run(fixed, 40)
    for request in requests:
        expected.add(request)
        expected.finish()  # each alone
    fixed.close()

    engine = make(shallow(kind))
    assert size(engine)[0] == fewest
    run = Run(engine, 40)
    counts = []
    for count, request in enumerate(requests, 1):
        run.add(request)
        counts.append(1 if count == 1 else size(engine)[0])
        if count in (1, 2, 4):  # those that come next do not fit
            run.until(lambda: all(len(numbers) >= 3 for numbers in run.numbers.values()))
    assert run.finish() == list(expected.numbers.values())
    assert size(engine)[0] == 8
    engine.close()


def test_an_answer_goes_on_when_its_stream_gets_more_cells(weights: Path) -> None:
    """An answer that grows beyond the cells there are goes on in a larger context, and one that waits for no more cells
    goes on beside it: both bit by bit as in a context that was large enough from the start."""
    long, short = ask("and then " * 300), ask("The lantern")
    with_room = make(weights, num_ctx=4096)
    before = Run(with_room, 1)
    before.add(ask("so it is that " * 400))
    before.finish()
    assert size(with_room)[1] == 2048
    expected = Run(with_room, 500)
    for request in (long, short):
        expected.add(request)
        expected.finish()
    with_room.close()

    engine = make(weights, num_ctx=4096)
    first_cells = size(engine)[1]
    assert first_cells == 1024 * (8 if first_cells > 1024 else 1)
    run = Run(engine, 500)
    run.add(long)
    run.until(lambda: len(run.numbers[0]) > 100)
    run.add(short)
    assert run.finish() == list(expected.numbers.values())
    engine.close()
