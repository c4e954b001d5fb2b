"""While the streams of a llama.cpp engine move to another context, one by one, with real weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.llama_cpp import build, context_settings, guess_opening
from corral.adapters.engines.llama_cpp.context_creation import ContextCreation
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.exactness import Exactness, measure_exactness
from corral.adapters.engines.llama_cpp.growing import ContextGrowth
from corral.adapters.engines.llama_cpp.guess_policy import GuessCandidate, GuessPolicy
from corral.adapters.engines.llama_cpp.guessing import Offer
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.core.errors import EngineError, OutOfMemory
from tests.contracts.llama_runs import WORDS, Numbers, Run, ask, make, size

pytestmark = pytest.mark.native

LONG = "and then " * 230
OTHER_LONG = "or else " * 230
SHORT = "The harbour " * 10
OTHER_SHORT = "The lantern " * 10
LIMIT = 100


@pytest.fixture(autouse=True)
def _few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models begin with 512 cells, however little memory more would take."""
    monkeypatch.setattr(context_settings, "_CHEAP_BYTES", 0)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The streams that have moved, in order."""
    streams: list[int] = []
    move = LlamaContext.move

    def noted(self: LlamaContext, stream: int, *, content: bool) -> bool:
        streams.append(stream)
        return move(self, stream, content=content)

    monkeypatch.setattr(LlamaContext, "move", noted)
    return streams


def never_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContextCreation, "done", property(lambda self: False))


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContextCreation, "done", property(lambda self: self.wait(None) is None))


def asked(engine: LlamaCppEngine, texts: Sequence[str], *, limit: int = LIMIT) -> Run:
    run = Run(engine, limit)
    for text in texts:
        run.add(ask(text))
    return run


def until_stuck(run: Run, requests: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no larger context be there until these answers have no cells any more; then the next step begins to move."""
    with monkeypatch.context() as held:
        never_done(held)
        run.until(lambda: all(run.numbers.values()))
        same = 0
        while same < 3:
            before = [len(run.numbers[request]) for request in requests]
            run.step()
            same = same + 1 if [len(run.numbers[request]) for request in requests] == before else 0
    at_once(monkeypatch)


def alone(path: Path, texts: Sequence[str], monkeypatch: pytest.MonkeyPatch, **options: object) -> list[Numbers]:
    """What a model says that has all cells from the start, to one request after the other."""
    with monkeypatch.context() as roomy:
        roomy.setattr(context_settings, "_CHEAP_BYTES", 1 << 40)
        engine = make(path, **options)
    run = Run(engine, LIMIT)
    for text in texts:
        run.add(ask(text))
        run.finish()
    engine.close()
    return list(run.numbers.values())


def test_an_answer_without_cells_moves_first_and_goes_on_at_once(
    shallow: Callable[[str], Path], moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the other streams: it has a token in the step in which its state has moved."""
    engine = make(shallow("Q4_1"), num_parallel=4)
    run = asked(engine, ["and then " * 150, *(f"The {word} " * 10 for word in WORDS[:3])], limit=300)
    until_stuck(run, [0], monkeypatch)
    assert size(engine) == (4, 512)
    stalled = len(run.numbers[0])
    run.until(lambda: bool(moved))
    assert size(engine) == (4, 512)
    assert len(run.numbers[0]) == stalled + 1
    assert all(len(numbers) == 300 for numbers in run.finish())
    engine.close()


@pytest.mark.parametrize("kind", ["Q4_1", "F16"])
def test_answers_without_cells_keep_what_they_have(
    kind: str, shallow: Callable[[str], Path], moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four answers have no room when streams begin to move, also for a row that is computed beside another:
    all go on as they would alone."""
    texts = [SHORT, LONG, OTHER_SHORT, OTHER_LONG]
    expected = alone(shallow(kind), texts, monkeypatch, num_parallel=4)
    engine = make(shallow(kind), num_parallel=4)
    run = asked(engine, texts)
    until_stuck(run, [1, 3], monkeypatch)
    assert not moved
    run.limit = max(LIMIT, *map(len, run.numbers.values()))  # so that the short ones are there while all move
    run.until(lambda: len(moved) == 4)
    run.limit = LIMIT
    run.until(lambda: all(len(numbers) >= LIMIT for numbers in run.numbers.values()))
    assert [numbers[:LIMIT] for numbers in run.numbers.values()] == expected
    assert not run.errors
    engine.close()


def test_no_row_is_computed_alone_beside_an_answer_without_cells(
    shallow: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a lone row comes out differently, and the only other stream has no room for a second row, an answer waits
    until it has: both have the numbers that they have alone. Without memory, the one without cells fails."""
    texts = [SHORT, LONG]
    expected = alone(shallow("F16"), texts, monkeypatch, num_parallel=2)
    engine = make(shallow("F16"), num_parallel=2)
    run = asked(engine, texts)
    until_stuck(run, [0, 1], monkeypatch)
    assert run.finish() == expected
    engine.close()

    engine = make(shallow("F16"), num_parallel=2)
    monkeypatch.setattr(context_settings, "free_memory", lambda: {"cpu": 1000})
    run = asked(engine, texts)
    assert run.finish()[0] == expected[0]
    assert run.errors == {1: OutOfMemory.code}
    engine.close()


def test_parts_of_a_step_are_computed_in_pairs(
    shallow: Callable[[str], Path], moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few rows may be computed together, and none alone, an answer that has moved, and has more cells than there
    were, is computed beside the others."""
    measure = measure_exactness

    def few_rows(*arguments: Any) -> Exactness:
        return msgspec.structs.replace(measure(*arguments), most_rows=2)

    monkeypatch.setattr(build, measure.__name__, few_rows)
    texts = [LONG, OTHER_LONG, SHORT, OTHER_SHORT]
    expected = alone(shallow("F16"), texts, monkeypatch, num_parallel=4)
    engine = make(shallow("F16"), num_parallel=4)
    run = asked(engine, texts)
    until_stuck(run, [0, 1], monkeypatch)
    told = [len(run.numbers[request]) for request in (0, 1)]
    run.limit = LIMIT
    run.until(lambda: len(moved) == 3)
    assert set(moved[:2]) == {0, 1}
    assert all(len(run.numbers[request]) > before for request, before in enumerate(told))
    assert run.finish() == expected
    engine.close()


def test_a_prefix_in_the_larger_context_stays(
    shallow: Callable[[str], Path], moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that has moved ends with more tokens than fit where others still are: its stream serves as a prefix
    after they have moved."""
    engine = make(shallow("Q4_1"), num_parallel=4, exact=False, guess="off")
    run = asked(engine, [SHORT, LONG, OTHER_SHORT], limit=300)
    until_stuck(run, [1], monkeypatch)
    run.until(lambda: bool(moved))
    engine.abort_request(1)
    run.until(lambda: len(moved) == 4)
    for request in (0, 2):
        engine.abort_request(request)
    again = Run(engine, 1)
    again.add(ask(LONG))
    again.finish()
    assert again.cached[0] > 400
    engine.close()


def test_an_answer_that_has_moved_is_guessed(
    shallow: Callable[[str], Path], moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has guesses at once, while others still are where it had no room."""

    class Always:
        """Offers as many tokens as there is room for."""

        def __init__(self, tokens: Sequence[int]) -> None: ...

        def add(self, token: int) -> None: ...

        def offer(self, most: int) -> Offer:
            return Offer(most, "short")

        def close(self) -> None: ...

    offered: list[list[int]] = []

    def lengths(self: GuessPolicy, candidates: Sequence[GuessCandidate], most_rows: int) -> list[int]:
        offered.append([candidate.available for candidate in candidates])
        return [0] * len(candidates)

    monkeypatch.setattr(guess_opening, "PromptLookup", Always)
    monkeypatch.setattr(GuessPolicy, "lengths", lengths)
    engine = make(shallow("Q4_1"), num_parallel=4, exact=False, guess="prompt")
    run = Run(engine, 300)
    for text in (LONG, SHORT, OTHER_SHORT):
        run.add(ask(text))
    until_stuck(run, [0], monkeypatch)
    run.until(lambda: len(moved) == 2)
    assert size(engine) == (4, 512)
    assert len(offered[-1]) == 3
    assert all(offered[-1])
    engine.close()


def test_an_answer_that_cannot_be_moved_fails(shallow: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request has an error, whether it was being answered or its prompt computed; others go on as before."""
    expected = alone(shallow("Q4_1"), [SHORT], monkeypatch, num_parallel=2)
    engine = make(shallow("Q4_1"), num_parallel=2)
    restore = LlamaContext.move

    def fails(self: LlamaContext, stream: int, *, content: bool) -> bool:
        kept = restore(self, stream, content=content)
        if stream == 1:
            self.trim(stream, 0)
        return kept and stream != 1

    monkeypatch.setattr(LlamaContext, "move", fails)
    run = Run(engine, LIMIT)
    for text in (SHORT, LONG):
        run.add(ask(text))
    until_stuck(run, [1], monkeypatch)
    run.finish()
    assert run.numbers[0][:LIMIT] == expected[0]
    assert run.errors == {1: EngineError.code}
    assert size(engine) == (2, 1024)
    engine.close()


@pytest.mark.parametrize("admitted", [True, False])
def test_fewer_cells_are_given_up_for_a_request_that_needs_more(
    admitted: bool, shallow: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller context is being created when a request comes that does not fit in, and is done before or after the
    request has a stream: the model stays as it is, and answers."""
    expected = alone(shallow("Q4_1"), ["so be it " * 250], monkeypatch)
    monkeypatch.setattr(build, "KEPT_S", 0.0)
    engine = make(shallow("Q4_1"))
    first = Run(engine, 1)
    first.add(ask("and then " * 250))
    first.finish()
    large = size(engine)
    assert large == (1, 1024)
    engine.add_request(99, ask("once"), None)  # so that little is kept
    while engine.has_unfinished_requests():
        engine.step()
        engine.abort_request(99)
    created: list[ContextCreation] = []
    create = ContextCreation.__init__

    def noted(self: ContextCreation, *arguments: Any) -> None:
        created.append(self)
        create(self, *arguments)

    monkeypatch.setattr(ContextCreation, "__init__", noted)
    with monkeypatch.context() as held:
        never_done(held)
        while not created:
            assert engine.idle() is not None
        run = Run(engine, LIMIT)
        run.add(ask("so be it " * 250))
        if admitted:
            run.until(lambda: bool(run.cached))
    at_once(monkeypatch)
    while engine.has_unfinished_requests():
        run.step()
        assert size(engine) == large
    assert run.numbers[0] == expected[0]
    engine.close()


def test_time_for_moves_is_taken_from_prompts(
    shallow: Callable[[str], Path], moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When moving a stream has taken long, prompts wait while an answer goes on, which has a token in every step."""
    now_s = 0.0
    move = LlamaContext.move

    def slow(self: LlamaContext, stream: int, *, content: bool) -> bool:
        nonlocal now_s
        now_s += 100.0
        return move(self, stream, content=content)

    def growing(**parts: Any) -> ContextGrowth:
        return ContextGrowth(**parts, clock_s=lambda: now_s)

    monkeypatch.setattr(LlamaContext, "move", slow)
    monkeypatch.setattr(build, "ContextGrowth", growing)
    at_once(monkeypatch)
    engine = make(shallow("Q4_1"))
    run = Run(engine, 300)
    run.add(ask(SHORT))
    run.until(lambda: bool(run.numbers[0]))
    run.add(ask(OTHER_SHORT))
    run.until(lambda: bool(moved))
    assert size(engine)[0] == 2
    for _ in range(50):
        told = len(run.numbers[0])
        run.step()
        assert len(run.numbers[0]) == told + 1
    assert not run.cached.get(1)
    assert not run.numbers[1]
    engine.abort_request(0)
    run.until(lambda: bool(run.numbers[1]))
    engine.close()
