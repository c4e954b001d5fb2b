"""A loaded model for tests: with its event loop, and its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from corral.core.ports.runners import Runner
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.requests.outputs import Delta, Embedded, Finished, Output, Ranked, Started, TokenLogprob
from corral.core.requests.requests import Request
from corral.core.specs.engines import EngineSpec, LoadRequest

__all__ = ("HeardAnswer", "ModelUnderTest")

T = TypeVar("T")


@dataclass(frozen=True)
class HeardAnswer:
    """All outputs of one request, in order."""

    outputs: tuple[Output, ...]

    @property
    def deltas(self) -> tuple[Delta, ...]:
        return tuple(output for output in self.outputs if isinstance(output, Delta))

    @property
    def text(self) -> str:
        """The text including thinking."""
        return "".join(delta.thinking + delta.text for delta in self.deltas)

    @property
    def token_count(self) -> int:
        """The number of tokens according to the deltas."""
        return sum(delta.token_count for delta in self.deltas)

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(logprob for delta in self.deltas for logprob in delta.logprobs)

    @property
    def started(self) -> Started | None:
        return next((output for output in self.outputs if isinstance(output, Started)), None)

    @property
    def finished(self) -> Finished:
        assert isinstance(self.outputs[-1], Finished), "the last output is no Finished"
        return self.outputs[-1]

    @property
    def embedded(self) -> Embedded:
        [output] = self.outputs
        assert isinstance(output, Embedded), "the answer to an EmbedRequest is one Embedded"
        return output

    @property
    def ranked(self) -> Ranked:
        [output] = self.outputs
        assert isinstance(output, Ranked), "the answer to a RerankRequest is one Ranked"
        return output


class ModelUnderTest:
    """A model and its event loop, for tests that are not coroutines. Close it.

    `limit_s` is how long anything may take before the test fails: no promise is about time, but tests must end.
    """

    def __init__(self, spec: EngineSpec, request: LoadRequest, runner: Runner, *, limit_s: float) -> None:
        self._spec, self._request, self._runner = spec, request, runner
        self._limit_s = limit_s
        self._loop = asyncio.Runner()
        try:
            self.model = self.run(self.load())
        except BaseException:
            self._loop.close()
            raise

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it in the model's event loop, and fails the test if it does not end."""

        async def limited() -> T:
            try:
                async with asyncio.timeout(self._limit_s) as limit:
                    return await work
            except TimeoutError:
                if limit.expired():
                    pytest.fail(f"no end after {self._limit_s:g} s")
                raise

        return self._loop.run(limited())

    async def load(self) -> RunningModel:
        """The same model, loaded once more; the caller closes it."""
        return await self._runner.load(self._spec, self._request, lambda share: None)

    async def ask(self, request: Request) -> HeardAnswer:
        return HeardAnswer(tuple([output async for output in self.model.run(request)]))

    async def ask_together(self, *requests: Request) -> list[HeardAnswer]:
        """The answers to these requests, which run at the same time."""
        return list(await asyncio.gather(*(self.ask(request) for request in requests)))

    def close(self) -> None:
        try:
            self.run(self.model.aclose())
        finally:
            self._loop.close()
