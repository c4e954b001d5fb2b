"""Finished answers become prefixes: they settle while the engine is idle, and are then what a prompt would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.core.requests.requests import ContextPolicy
from tests.contracts.llama_engines import loaded_engine
from tests.contracts.llama_turns import Turn, answer, prompt

pytestmark = pytest.mark.native


def make(path: Path, **options: object) -> LlamaCppEngine:
    return loaded_engine(path, options={"num_ctx": 512, "num_parallel": 4, **options})


def settle(engine: LlamaCppEngine) -> None:
    """Idle until there is nothing to do."""
    while engine.idle() == 0:
        pass


@pytest.fixture(scope="module", params=["Q4_1", "F16", "Q4_K_M"])
def load_model(request: pytest.FixtureRequest, shallow: Callable[[str], Path]) -> Callable[..., LlamaCppEngine]:
    """Loads one of the types, with what makes it exact."""
    return partial(make, shallow(request.param), repack=request.param != "Q4_K_M")


@pytest.fixture(scope="module")
def engine(load_model: Callable[..., LlamaCppEngine]) -> Iterator[LlamaCppEngine]:
    engine = load_model()
    assert "exact" in engine.info.features, engine.info.details["exact"]
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def fresh(load_model: Callable[..., LlamaCppEngine]) -> Iterator[Callable[[Turn], list[float]]]:
    """The numbers of a turn in an engine that reuses nothing of it."""
    engine = load_model(num_parallel=2, prefix_memory=0)

    def numbers(turn: Turn) -> list[float]:
        answer(engine, Turn([1, 2, 3]), Turn([4, 5, 6]), limit=1)  # no stream holds what begins like the turn
        again = Turn(turn.ids, seed=1)
        answer(engine, again)
        assert again.cached == 0
        return again.numbers

    yield numbers
    engine.close()


def test_the_next_turn_finds_the_whole_conversation(
    engine: LlamaCppEngine, fresh: Callable[[Turn], list[float]]
) -> None:
    """After settling, the prompt and the answer of a turn are the prefix of the next, which is answered to the last bit
    as if nothing had been cached; and so on."""
    turn = Turn(prompt(1))
    answer(engine, turn)
    for _ in range(2):
        settle(engine)
        following = turn.next()
        answer(engine, following)
        assert following.cached == len(turn.whole)
        assert following.numbers == fresh(following)
        turn = following


def test_a_request_that_comes_while_an_answer_settles(
    engine: LlamaCppEngine, fresh: Callable[[Turn], list[float]]
) -> None:
    """What has been settled by then is reused, and the text is the same; an answer that waits settles afterwards."""
    first, second = Turn(prompt(2)), Turn(prompt(3), seed=2)
    answer(engine, first, second, limit=40)
    engine.idle()
    following = first.next()
    answer(engine, following)
    assert len(first.ids) <= following.cached <= len(first.whole)
    assert following.numbers == fresh(following)
    settle(engine)
    other = second.next()
    answer(engine, other)
    assert other.cached == len(second.whole)
    assert other.numbers == fresh(other)


def test_only_what_was_a_prompt_is_reused_at_once(engine: LlamaCppEngine) -> None:
    """A turn that comes before the engine has idled computes the answer once more."""
    turn = Turn(prompt(4))
    answer(engine, turn)
    following = turn.next()
    answer(engine, following)
    assert following.cached == len(turn.ids)


def test_answers_in_a_context_that_was_shifted_never_settle(engine: LlamaCppEngine) -> None:
    """Its tokens saw what is no longer there, so they are part of no prompt."""
    settle(engine)
    turn = Turn(prompt(5), context=ContextPolicy(num_ctx=48, num_keep=4))
    answer(engine, turn, limit=40)
    assert engine.idle() is None
    following = turn.next()
    answer(engine, following, limit=2)
    assert following.cached <= 4


def test_an_answer_settles_once(engine: LlamaCppEngine) -> None:
    """Then there is nothing to do until another request has ended."""
    turn = Turn(prompt(6))
    answer(engine, turn, limit=30)
    settle(engine)
    assert [engine.idle() for _ in range(3)] == [None, None, None]
    following = turn.next()
    answer(engine, following, limit=1)
    assert following.cached == len(turn.whole)


def test_a_prompt_that_is_cancelled_leaves_nothing_to_settle(engine: LlamaCppEngine) -> None:
    """Before the first token there is no answer."""
    settle(engine)
    engine.add_request(1, Turn(prompt(7, 200)).request, None)
    engine.abort_request(1)
    assert engine.idle() is None


def test_many_requests_at_once(shallow: Callable[[str], Path]) -> None:
    """K-quants that are not repacked are exact in as many streams as there are, and with prompts of any length."""
    path = shallow("Q4_K_M")
    turns = [Turn(prompt(20 + index, length), seed=index) for index, length in enumerate((1, 3, 8, 9, 17, 30, 40, 70))]
    alone = [Turn(turn.ids, seed=index) for index, turn in enumerate(turns)]
    engine = make(path, repack=False, num_parallel=8, max_prefill_tokens=4)
    answer(engine, *turns)
    engine.close()
    engine = make(path, repack=False, num_parallel=1, prefix_memory=0)
    for turn in alone:
        answer(engine, turn)
    engine.close()
    assert [turn.numbers for turn in turns] == [turn.numbers for turn in alone]
