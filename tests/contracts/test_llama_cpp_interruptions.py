"""Steps that are interrupted by the flag, in llama.cpp itself: the answers are the same."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from corral.adapters.engine_kit import thread_tuning
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.interrupting import Interrupter
from corral.adapters.system.processors import available_cpus
from corral.core.requests.outputs import EngineEmbedded, EngineOutput, Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, EmbedRequest, SamplingParams
from tests.contracts.llama_engines import loaded_engine

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or available_cpus() < 2, reason="a single thread waits for nobody"
)

TEXT = "The harbour lay still, and the boats had come home before the rain. " * 12


@pytest.fixture
def make(shallow: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], LlamaCppEngine]]:
    """An engine of so many threads, which does not look at what else this machine does."""
    monkeypatch.setattr(ThreadTuner, "begin", lambda self, time_decode: self.threads)
    monkeypatch.setattr(thread_tuning, "_CROWD", 1_000_000)
    made: list[LlamaCppEngine] = []

    def load(threads: int) -> LlamaCppEngine:
        made.append(loaded_engine(shallow("Q4_1"), options={"num_thread": threads}))
        return made[-1]

    yield load
    for engine in made:
        engine.close()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads of the steps that are interrupted: every one that has more than one."""
    threads_of: list[int] = []
    watch = Interrupter.watch

    @contextmanager
    def stopped(self: Interrupter, threads: int) -> Iterator[None]:
        with watch(self, threads):
            if threads > 1:
                threads_of.append(threads)
                self._flag[0] = 1
            yield

    monkeypatch.setattr(Interrupter, "watch", stopped)
    return threads_of


def outputs(engine: LlamaCppEngine, request: CompletionRequest | EmbedRequest, count: int) -> list[EngineOutput]:
    engine.add_request(1, request, None)
    found: list[EngineOutput] = []
    while len(found) < count and engine.has_unfinished_requests():
        found += [output for _, output in engine.step() if isinstance(output, Token | EngineEmbedded)]
    engine.abort_request(1)
    return found


def test_an_answer_is_the_same(
    make: Callable[[int], LlamaCppEngine], interrupted: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """The piece is computed again with one thread: the same tokens with the same logprobs. It is no error in the
    log."""
    asked = CompletionRequest(prompt=(TextPart(text=TEXT),), sampling=SamplingParams(temperature=0.0), logprobs=1)
    expected = outputs(make(1), asked, 8)
    assert not interrupted
    assert outputs(make(2), asked, 8) == expected
    assert set(interrupted) == {2}
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_answers_that_are_running_are_the_same(
    make: Callable[[int], LlamaCppEngine], request: pytest.FixtureRequest
) -> None:
    """A step of several answers is computed again as a whole."""
    asked = [
        CompletionRequest(
            prompt=(TextPart(text=TEXT[at:]),), sampling=SamplingParams(temperature=0.9, seed=at), logprobs=1
        )
        for at in (0, 40, 70)
    ]

    def answers(engine: LlamaCppEngine, then: Callable[[], object]) -> dict[int, list[EngineOutput]]:
        found: dict[int, list[EngineOutput]] = {number: [] for number in range(len(asked))}
        for number, one in enumerate(asked):
            engine.add_request(number, one, None)

        def until(count: int) -> None:
            while any(len(tokens) < count for tokens in found.values()):
                for number, output in engine.step():
                    if isinstance(output, Token):
                        found[number].append(output)

        until(3)
        then()
        until(8)
        return {number: tokens[:8] for number, tokens in found.items()}

    expected = answers(make(1), lambda: None)
    assert answers(make(2), lambda: request.getfixturevalue("interrupted")) == expected
    assert set(request.getfixturevalue("interrupted")) == {2}


def test_a_vector_is_the_same(make: Callable[[int], LlamaCppEngine], interrupted: list[int]) -> None:
    """Inputs of a request for embeddings are computed again as well."""
    asked = EmbedRequest(inputs=((TextPart(text=TEXT),),))
    expected = outputs(make(1), asked, 1)
    assert outputs(make(2), asked, 1) == expected
    assert set(interrupted) == {2}
