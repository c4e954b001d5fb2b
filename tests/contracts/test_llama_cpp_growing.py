"""The llama.cpp engine grows and shrinks, with real weights: answers go on, bit by bit the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.engines.llama_cpp import build, context_settings
from corral.adapters.engines.llama_cpp.context_creation import ContextCreation
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_context import ContextSize, NativeContext
from corral.core.errors import OutOfMemory
from corral.core.requests.outputs import EngineOutput
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import EmbedRequest
from tests.contracts.llama_runs import WORDS, Run, ask, idle_until, make, size

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def weights(shallow: Callable[[str], Path]) -> Path:
    return shallow("Q4_1")


@pytest.fixture
def engine(weights: Path) -> Iterator[LlamaCppEngine]:
    engine = make(weights)
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def _few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models begin with 512 cells, however little memory more would take."""
    monkeypatch.setattr(context_settings, "_CHEAP_BYTES", 0)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger context is there before the next step."""
    monkeypatch.setattr(ContextCreation, "done", property(lambda self: self.wait(None) is None))


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize(("kind", "fewest"), [("Q4_1", 1), ("Q8_0", 1), ("F16", 2)])
def test_answers_go_on_across_every_growth(kind: str, fewest: int, shallow: Callable[[str], Path]) -> None:
    """A model starts with one stream, or two if no row may be computed alone, and grows to eight as requests come: in
    every answer, token ids and log-probabilities are those of a model that had as many streams before."""
    requests = [ask(f"Tell me about the {word}.") for word in WORDS]
    fixed = make(shallow(kind), num_parallel=8, num_ctx=512)
    expected = Run(fixed, 24)
    for request in requests:
        expected.add(request)
        expected.finish()  # each alone
    fixed.close()

    engine = make(shallow(kind))
    assert size(engine) == (fewest, 512)
    run = Run(engine, 24)
    streams = {1: fewest, 2: 2, 3: 4, 5: 8}  # by the number of requests
    for count, request in enumerate(requests, 1):
        run.add(request)
        if count in streams:
            run.until(lambda wanted=streams[count]: size(engine)[0] == wanted and all(run.numbers.values()))  # type: ignore[misc]
            assert not run.ended
    assert run.finish() == list(expected.numbers.values())
    engine.close()


def test_an_answer_goes_on_when_its_stream_gets_more_cells(weights: Path) -> None:
    """An answer that grows beyond the cells there are goes on in a larger context, bit by bit as in one that was large
    enough from the start; another request joins it meanwhile."""
    long, short = ask("and then " * 200), ask("The lantern")
    roomy = make(weights)
    before = Run(roomy, 1)
    before.add(ask("so it is that " * 200))
    before.finish()
    assert size(roomy) == (1, 1024)
    expected = Run(roomy, 150)
    for request in (long, short):
        expected.add(request)
        expected.finish()
    roomy.close()

    engine = make(weights)
    run = Run(engine, 150)
    run.add(long)
    run.until(lambda: len(run.numbers[0]) > 10)
    assert size(engine) == (1, 512)
    run.add(short)
    assert run.finish() == list(expected.numbers.values())
    assert size(engine) == (2, 1024)
    engine.close()


@pytest.mark.usefixtures("_at_once")
def test_a_step_moves_one_stream(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many answers run, none waits for more than one state to be copied between two of its tokens."""
    moved: list[int] = []
    move = LlamaContext.move

    def counted(self: LlamaContext, stream: int, *, content: bool) -> bool:
        moved.append(content)
        return move(self, stream, content=content)

    monkeypatch.setattr(LlamaContext, "move", counted)
    engine = make(weights)
    run = Run(engine, 100)
    for word in WORDS[:4]:
        run.add(ask(f"The {word} " * 10))
    run.until(lambda: all(numbers for numbers in run.numbers.values()))
    assert size(engine)[0] == 4
    run.add(ask("The river"))
    moved.clear()
    steps = []
    while size(engine)[0] == 4:
        before, told = sum(moved), [len(numbers) for numbers in run.numbers.values()]
        run.step()
        steps.append(sum(moved) - before)
        assert [len(numbers) for numbers in run.numbers.values()][:4] == [count + 1 for count in told[:4]]
    assert steps == [0, 1, 1, 1, 1]
    engine.close()


def test_steps_leave_time_to_the_creating_thread_when_cells_run_short(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a larger context is created, steps wait for nothing as long as all answers have cells. The fewer an answer
    has left, the longer each step leaves the processors to the thread; when it has none, also while another goes on."""
    waits: list[float] = []
    with monkeypatch.context() as never:
        never.setattr(ContextCreation, "done", property(lambda self: False))
        never.setattr(ContextCreation, "wait", lambda self, timeout_s: waits.append(timeout_s))
        run = Run(engine, 300)
        run.add(ask("and then " * 150))
        run.until(lambda: len(run.numbers[0]) > 10)
        run.add(ask("The lantern"))  # there is no stream for it
        for _ in range(10):
            run.step()
    assert waits == [0] * 9
    run.until(lambda: bool(run.numbers[1]))
    assert size(engine) == (2, 512)

    waits.clear()
    with monkeypatch.context() as never:
        never.setattr(ContextCreation, "done", property(lambda self: False))
        never.setattr(ContextCreation, "wait", lambda self, timeout_s: waits.append(timeout_s))
        run.until(lambda: waits[-2:] == [0.05, 0.05])
        told = [len(numbers) for numbers in run.numbers.values()]
        run.step()
        assert [len(numbers) for numbers in run.numbers.values()] == [told[0], told[1] + 1]
    assert waits == sorted(waits)
    assert waits[0] < 0.01
    assert all(len(numbers) == 300 for numbers in run.finish())


def test_without_memory_requests_wait(engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory is short, a model does not grow: requests wait for a stream, in order, and all are answered. Only one
    that needs more cells than there are fails, with the reason; it is answered when there is memory again."""
    monkeypatch.setattr(context_settings, "free_memory", lambda: {"cpu": 1000})
    run = Run(engine, 5)
    for word in WORDS[:3]:
        run.add(ask(f"The {word}"))
    long = run.add(ask("and then " * 300))
    after = run.add(ask("The garden"))
    run.finish()
    assert run.errors == {long: OutOfMemory.code}
    assert run.ended == [0, 1, 2, after]
    assert size(engine) == (1, 512)
    monkeypatch.setattr(context_settings, "free_memory", dict[str, int])
    again = Run(engine, 5)
    again.add(ask("and then " * 300))
    assert len(again.finish()[0]) == 5
    assert size(engine) == (1, 1024)


def test_a_context_that_cannot_be_created_is_done_without(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If llama.cpp cannot create a larger context, the one there is works on, and a smaller step is tried."""
    tried: list[ContextSize] = []
    another = LlamaContext.another

    def fails(self: LlamaContext, size: ContextSize) -> NativeContext:
        tried.append(size)
        if size.streams > 2:
            raise OutOfMemory("no")
        return another(self, size)

    monkeypatch.setattr(LlamaContext, "another", fails)
    run = Run(engine, 5)
    for word in WORDS[:5]:
        run.add(ask(f"The {word}"))
    assert all(len(numbers) == 5 for numbers in run.finish())
    assert tried[:3] == [ContextSize(8, 512), ContextSize(4, 512), ContextSize(2, 512)]
    assert size(engine)[0] == 2


def test_what_is_not_needed_is_given_up(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time without need, a model has the size it began with. The prefix that was used last is still there, also
    when its stream is not; the others are in host memory."""
    monkeypatch.setattr(build, "KEPT_S", 0.0)
    engine = make(weights)
    prompts = [f"{word}, and then {'on and on ' * 20}" for word in WORDS[:4]]
    run = Run(engine, 5)
    for prompt in prompts:
        run.add(ask(prompt))
    run.finish()
    assert size(engine)[0] == 4
    idle_until(engine, (1, 512))
    again = Run(engine, 5)
    for prompt in reversed(prompts):
        again.add(ask(prompt))
        again.finish()
    assert all(cached >= 40 for cached in again.cached.values())
    assert list(again.numbers.values()) == list(run.numbers.values())[::-1]
    engine.close()


def test_a_fixed_number_of_streams_stays(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `num_parallel`, there are as many streams from the start and forever; only their cells change."""
    monkeypatch.setattr(build, "KEPT_S", 0.0)
    engine = make(weights, num_parallel=3)
    assert (size(engine), engine.info.parallel) == ((3, 512), 3)
    run = Run(engine, 3)
    for text in ("and then " * 300, *WORDS[:4]):
        run.add(ask(text))
    run.finish()
    assert size(engine) == (3, 1024)
    idle_until(engine, (3, 512))
    engine.close()


def test_the_model_says_what_it_takes(engine: LlamaCppEngine) -> None:
    """`parallel` and `context_length` are what can be had, so that requests come; memory and details are what is there
    now, and the same object tells them until they change."""
    before = engine.info
    assert (before.parallel, before.context_length) == (8, 2048)
    assert before.details["streams"] == "1 x 512 tokens, up to 8 x 2048"
    run = Run(engine, 3)
    for word in WORDS:
        run.add(ask(f"The {word}"))
    assert engine.info is before
    run.finish()
    after = engine.info
    assert after.details["streams"] == "8 x 512 tokens, up to 8 x 2048"
    assert (after.parallel, after.context_length) == (8, 2048)
    kv_bytes_per_token = 3 * 3 * (64 + 64) * 2
    logits = 7 * 16 * 49_152 * 4
    grown = after.memory_bytes["cpu"] - before.memory_bytes["cpu"]
    assert 7 * 512 * kv_bytes_per_token <= grown <= 7 * 512 * kv_bytes_per_token + logits


def test_the_context_for_embeddings_has_room_for_the_inputs(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made for inputs of the usual length, and again when a longer one comes; the vectors stay the same."""
    cells: list[int] = []
    create = LlamaContext.__init__

    def noted(self: LlamaContext, model: Any, params: Any, size: ContextSize, **more: Any) -> None:
        cells.append(size.cells)
        create(self, model, params, size, **more)

    monkeypatch.setattr(LlamaContext, "__init__", noted)

    def embed(text: str) -> EngineOutput:
        request = EmbedRequest(inputs=((TextPart(text=text),),), num_ctx=None, truncate=False)
        engine.add_request(0, request, None)
        outputs: list[EngineOutput] = []
        while engine.has_unfinished_requests():
            outputs += [output for _, output in engine.step()]
        return outputs[-1]

    short = embed("a lantern in the harbour")
    embed("and then " * 300)
    assert cells == [512, 1024]
    assert embed("a lantern in the harbour") == short
    assert len(cells) == 2
