"""Steps that are interrupted by the flag, in llama.cpp itself: the answers are the same."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

import llama_cpp as C

from corral.adapters.engine_kit import thread_tuning
from corral.adapters.engine_kit.thread_tuning import ThreadTuner
from corral.adapters.engines.llama_cpp import interrupting
from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.adapters.engines.llama_cpp.interrupting import Interrupter
from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.system.processors import available_cpus
from corral.core.requests.outputs import EngineEmbedded, EngineOutput, Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, ContextPolicy, EmbedRequest, SamplingParams
from tests.contracts.llama_engines import loaded_engine

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or available_cpus() < 2, reason="a single thread waits for nobody"
)

TEXT = "The harbour lay still, and the boats had come home before the rain. " * 12


@pytest.fixture
def make(shallow: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LlamaCppEngine]]:
    """An engine of so many threads, which does not look at what else this machine does."""
    monkeypatch.setattr(ThreadTuner, "begin", lambda self, time_decode: self.threads)
    monkeypatch.setattr(ThreadTuner, "tolerated", property(lambda self: 0.0 if self.threads > 1 else None))
    for record in ("record", "record_prefill"):
        monkeypatch.setattr(ThreadTuner, record, lambda self, tokens, took: self.threads)
    monkeypatch.setattr(thread_tuning, "_CROWD", 1_000_000)
    made: list[LlamaCppEngine] = []

    def load(threads: int, **options: object) -> LlamaCppEngine:
        made.append(loaded_engine(shallow("Q4_1"), options={"num_thread": threads, **options}))
        return made[-1]

    yield load
    for engine in made:
        engine.close()


class Interruptions:
    """Steps that have more than one thread are interrupted: `count` is how many were.

    `wanted` says which ones. It happens after so many `operations`: then some layers have been computed.
    """

    def __init__(self) -> None:
        self.count = 0
        self.operations = 0
        self.wanted: Callable[[], bool] = lambda: True
        self._left: int | None = None

    @contextmanager
    def watch(self, interrupter: Interrupter, threads: int, tolerated: float) -> Iterator[None]:
        if self.wanted():
            self._left = self.operations
        yield
        self._left = None

    def stop(self, _: object) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        if self._left >= 0:
            return False
        self.count += self._left == -1
        return True


@pytest.fixture
def interruptions(monkeypatch: pytest.MonkeyPatch) -> Interruptions:
    made = Interruptions()
    monkeypatch.setattr(interrupting, "_string_length", C.ggml_abort_callback(made.stop))
    monkeypatch.setattr(Interrupter, "watch", lambda self, threads, tolerated: made.watch(self, threads, tolerated))
    return made


def outputs(engine: LlamaCppEngine, request: CompletionRequest | EmbedRequest, count: int) -> list[EngineOutput]:
    engine.add_request(1, request, None)
    found: list[EngineOutput] = []
    while len(found) < count and engine.has_unfinished_requests():
        found += [output for _, output in engine.step() if isinstance(output, Token | EngineEmbedded)]
    engine.abort_request(1)
    return found


def test_the_flag_is_what_llama_cpp_looks_at(
    make: Callable[..., LlamaCppEngine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step whose flag is set is interrupted, and computed again with one thread: the same tokens with the same
    logprobs. It is no error in the log."""
    asked = CompletionRequest(prompt=(TextPart(text=TEXT),), sampling=SamplingParams(temperature=0.0), logprobs=1)
    expected = outputs(make(1), asked, 8)
    watch = Interrupter.watch
    codes: list[int] = []

    @contextmanager
    def stopped(self: Interrupter, threads: int, tolerated: float) -> Iterator[None]:
        with watch(self, threads, tolerated):
            self._flag[0] = 1
            yield

    interrupted = ThreadTuner.interrupted
    monkeypatch.setattr(Interrupter, "watch", stopped)
    monkeypatch.setattr(ThreadTuner, "interrupted", lambda self, took: codes.append(interrupted(self, took)))
    assert outputs(make(2), asked, 8) == expected
    assert set(codes) == {1}
    assert all(record.levelno < logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("operations", [0, 40])
def test_an_answer_is_the_same(
    make: Callable[..., LlamaCppEngine], interruptions: Interruptions, operations: int
) -> None:
    """Also if some layers were computed already when it was interrupted."""
    asked = CompletionRequest(prompt=(TextPart(text=TEXT),), sampling=SamplingParams(temperature=0.0), logprobs=1)
    expected = outputs(make(1), asked, 8)
    assert not interruptions.count
    interruptions.operations = operations
    assert outputs(make(2), asked, 8) == expected
    assert interruptions.count


def test_answers_that_are_running_are_the_same(
    make: Callable[..., LlamaCppEngine], interruptions: Interruptions
) -> None:
    """A step of several answers is computed again as a whole, by turns in a context that grows meanwhile."""
    asked = [
        CompletionRequest(
            prompt=(TextPart(text=TEXT[at:]),), sampling=SamplingParams(temperature=0.9, seed=at), logprobs=1
        )
        for at in (0, 40, 70)
    ]

    def answers(engine: LlamaCppEngine) -> dict[int, list[EngineOutput]]:
        found: dict[int, list[EngineOutput]] = {number: [] for number in range(len(asked))}
        for number, one in enumerate(asked):
            engine.add_request(number, one, None)
        while any(len(tokens) < 12 for tokens in found.values()):
            for number, output in engine.step():
                if isinstance(output, Token):
                    found[number].append(output)
        return {number: tokens[:12] for number, tokens in found.items()}

    expected = answers(make(1))
    interruptions.operations = 20
    assert answers(make(2)) == expected
    assert interruptions.count


def test_a_shifted_context_is_the_same(
    make: Callable[..., LlamaCppEngine], interruptions: Interruptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that moves the keys of a shifted context is not interrupted: it would move some of them twice."""
    asked = CompletionRequest(
        prompt=(TextPart(text=TEXT[:150]),),
        sampling=SamplingParams(temperature=0.0, ignore_eos=True),
        context=ContextPolicy(num_ctx=96, num_keep=4),
        logprobs=1,
    )
    shifted: list[int] = []
    discard = LlamaContext.discard

    def noted(self: LlamaContext, stream: int, start: int, end: int) -> None:
        shifted.append(stream)
        discard(self, stream, start, end)

    monkeypatch.setattr(LlamaContext, "discard", noted)
    expected = outputs(make(1, num_parallel=1), asked, 120)
    assert shifted
    shifted.clear()
    interruptions.wanted = lambda: bool(shifted)
    assert outputs(make(2, num_parallel=1), asked, 120) == expected
    assert interruptions.count


def test_a_vector_is_the_same(make: Callable[..., LlamaCppEngine], interruptions: Interruptions) -> None:
    """Inputs of a request for embeddings are computed again as well."""
    asked = EmbedRequest(inputs=((TextPart(text=TEXT),), (TextPart(text=TEXT[9:]),)))
    expected = outputs(make(1), asked, 1)
    interruptions.operations = 30
    assert outputs(make(2), asked, 1) == expected
    assert interruptions.count
