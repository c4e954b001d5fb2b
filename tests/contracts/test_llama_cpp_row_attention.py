"""Attention row by row: an answer's tokens are what they would be in a prompt, so that they are reused at once, and
several may be computed together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from corral.adapters.engines.llama_cpp import guess_opening
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.guess_policy import GuessCandidate, GuessPolicy
from corral.adapters.engines.llama_cpp.guessing import Offer
from corral.adapters.engines.llama_cpp.step_computation import Computation
from corral.core.requests.outputs import EngineEmbedded
from corral.core.requests.prompts import TokensPart
from corral.core.requests.requests import EmbedRequest
from tests.contracts.llama_engines import loaded_engine
from tests.contracts.llama_turns import Turn, answer, prompt

pytestmark = pytest.mark.native

_BY_ROW: Mapping[str, Mapping[str, object]] = {
    "Q4_1": {"row_attention": True},
    "Q8_0": {"row_attention": True},
    "F16": {"row_attention": True},
    "Q4_1, quantized cache": {"kv_cache_type": "q8_0"},
}


def make(path: Path, given: Mapping[str, object], **options: object) -> LlamaCppEngine:
    return loaded_engine(path, options={"num_ctx": 1024, "num_parallel": 4, **given, **options})


@pytest.fixture(scope="module", params=_BY_ROW)
def load_model(request: pytest.FixtureRequest, shallow: Callable[[str], Path]) -> Callable[..., LlamaCppEngine]:
    """Loads weights of one type with attention by row."""
    return partial(make, shallow(request.param.partition(",")[0]), _BY_ROW[request.param])


@pytest.fixture(scope="module")
def engine(load_model: Callable[..., LlamaCppEngine]) -> Iterator[LlamaCppEngine]:
    with contextlib.closing(load_model()) as engine:
        yield engine


@pytest.fixture(scope="module")
def fresh(load_model: Callable[..., LlamaCppEngine]) -> Iterator[Callable[[Turn], list[float]]]:
    """The numbers of a turn in an engine that reuses nothing, guesses nothing, and computes prompts in other pieces."""
    with contextlib.closing(load_model(num_parallel=2, prefix_memory=0, num_batch=96, guess="off")) as engine:

        def numbers(turn: Turn) -> list[float]:
            answer(engine, Turn([1, 2, 3]), Turn([4, 5, 6]), limit=1)  # no stream holds what begins like the turn
            again = Turn(turn.ids, seed=turn.seed)
            answer(engine, again)
            assert again.cached == 0
            return again.numbers

        yield numbers


def test_an_answer_is_a_prefix_at_once(engine: LlamaCppEngine, fresh: Callable[[Turn], list[float]]) -> None:
    """Without a pause, the next turn finds prompt and answer, all but the last token, which nothing followed; its
    numbers are to the last bit those without a cache."""
    assert "exact" in engine.info.features, engine.info.details["exact"]
    assert engine.info.details["attention"] == "by row"
    turn = Turn(prompt(1))
    answer(engine, turn)
    for _ in range(2):
        following = turn.next()
        answer(engine, following)
        assert following.cached == len(turn.whole) - 1
        assert following.numbers == fresh(following)
        turn = following
    assert engine.idle() != 0, "there is nothing to settle"


def test_long_prompts_beside_others(engine: LlamaCppEngine, fresh: Callable[[Turn], list[float]]) -> None:
    """Prompts that are computed in long and in short pieces, deep in a context, and answers beside others, have the
    same numbers as alone."""
    turns = [Turn(prompt(seed, length), seed=seed) for seed, length in ((11, 700), (12, 80), (13, 560), (14, 1))]
    answer(engine, *turns)
    for turn in turns:
        assert turn.numbers == fresh(turn)


def test_vectors_do_not_depend_on_pieces(engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat model gives a text the same vector, in one piece or with its last token in a piece of its own."""
    for seed in range(6):
        for length in (12, 17, 23):
            ids = prompt(seed, length)
            whole = _vector(engine, ids)
            with monkeypatch.context() as patch:
                patch.setattr(Computation, "budget", lambda self, *, answering, most=length - 1: most)
                assert _vector(engine, ids) == whole


def _vector(engine: LlamaCppEngine, ids: list[int]) -> bytes:
    engine.add_request(0, EmbedRequest(inputs=((TokensPart(ids=tuple(ids)),),), truncate=True), None)
    while True:
        for _, output in engine.step():
            assert isinstance(output, EngineEmbedded), output
            return output.vectors.float32


def test_guesses_are_exact(
    load_model: Callable[..., LlamaCppEngine], fresh: Callable[[Turn], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no idle row is needed, tokens are guessed while texts are exact, and every number stays the same."""
    computed: list[int] = []

    def all_of_them(self: GuessPolicy, candidates: Sequence[GuessCandidate], most_rows: int) -> list[int]:
        computed.extend(candidate.available for candidate in candidates if candidate.available)
        return [candidate.available for candidate in candidates]

    monkeypatch.setattr(GuessPolicy, "lengths", all_of_them)
    monkeypatch.setattr(guess_opening, "PromptLookup", AnyTokens)
    with contextlib.closing(load_model()) as engine:
        guesses = engine.info.details["guesses"]
        if "idle row" in engine.info.details["exact"]:
            assert guesses.startswith("no: several rows")
            return
        turns = [Turn(prompt(seed), seed=seed) for seed in (21, 22)]
        answer(engine, *turns)
        assert computed
        for turn in turns:
            assert turn.numbers == fresh(turn)


class AnyTokens:
    """Guesses tokens that hardly ever follow."""

    def __init__(self, tokens: Sequence[int]) -> None:
        pass

    def add(self, token: int) -> None:
        pass

    def offer(self, most: int) -> Offer:
        return Offer(min(3, most), "long")

    def guess(self, count: int) -> list[int]:
        return list(range(100, 100 + count))

    def close(self) -> None:
        pass


def test_flash_attention_with_other_kernels_is_not_exact(shallow: Callable[[str], Path]) -> None:
    """Without it, flash attention computes long pieces with another kernel, and the details say what follows."""
    with contextlib.closing(make(shallow("Q4_1"), {"flash_attention": True})) as engine:
        assert "exact" not in engine.info.features
        assert "flash attention" in engine.info.details["exact"]
