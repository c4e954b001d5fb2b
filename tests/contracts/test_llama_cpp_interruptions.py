"""Pieces of prompts that are interrupted by the flag, in llama.cpp itself: the answers are the same."""

from __future__ import annotations

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
    """Threads of the pieces that are interrupted: every one that has more than one."""
    threads_of: list[int] = []

    @contextmanager
    def watch(self: Interrupter, threads: int) -> Iterator[None]:
        if threads > 1:
            threads_of.append(threads)
            self._flag[0] = 1
        yield
        self._flag[0] = 0

    monkeypatch.setattr(Interrupter, "watch", watch)
    return threads_of


def outputs(engine: LlamaCppEngine, request: CompletionRequest | EmbedRequest, count: int) -> list[EngineOutput]:
    engine.add_request(1, request, None)
    found: list[EngineOutput] = []
    while len(found) < count and engine.has_unfinished_requests():
        found += [output for _, output in engine.step() if isinstance(output, Token | EngineEmbedded)]
    engine.abort_request(1)
    return found


def test_an_answer_is_the_same(make: Callable[[int], LlamaCppEngine], interrupted: list[int]) -> None:
    """The piece is computed again with one thread: the same tokens with the same logprobs, and nothing is computed
    twice in memory."""
    asked = CompletionRequest(prompt=(TextPart(text=TEXT),), sampling=SamplingParams(temperature=0.0), logprobs=1)
    expected = outputs(make(1), asked, 8)
    assert not interrupted
    assert outputs(make(2), asked, 8) == expected
    assert interrupted == [2]


def test_a_vector_is_the_same(make: Callable[[int], LlamaCppEngine], interrupted: list[int]) -> None:
    """Inputs of a request for embeddings are computed again as well."""
    asked = EmbedRequest(inputs=((TextPart(text=TEXT),),))
    expected = outputs(make(1), asked, 1)
    assert outputs(make(2), asked, 1) == expected
    assert interrupted == [2]
