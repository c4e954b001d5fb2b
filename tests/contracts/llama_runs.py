"""Requests of a llama.cpp engine that grows, and every number that it says to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from corral.adapters.engines.llama_cpp.engine import LlamaCppEngine
from corral.core.requests.outputs import EngineFailed, EngineFinished, EngineOutput, Prefilled, Token
from corral.core.requests.prompts import TextPart
from corral.core.requests.requests import CompletionRequest, ContextPolicy, SamplingParams
from tests.contracts.llama_engines import loaded_engine

__all__ = ("WORDS", "Numbers", "Run", "ask", "idle_until", "make", "size")

WORDS = ("harbour", "lantern", "captain", "winter", "mountain", "letter", "garden", "river")
Numbers = list[tuple[int | None, float]]


def make(path: Path, **options: object) -> LlamaCppEngine:
    return loaded_engine(path, options={"num_ctx": 2048, **options})


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
