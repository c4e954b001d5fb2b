"""Models that break one promise each about concurrent requests, repeated answers, or their lifetime."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from corral.core.errors import ServerBusy
from corral.core.ports.running import ModelInfo, RunningModel
from corral.core.requests.outputs import Delta, Output
from corral.core.requests.requests import ChatRequest, CompletionRequest, Request
from corral.plugins.testing.broken.sound import PARALLEL, SoundModel
from corral.plugins.testing.broken.words import with_sampling

__all__ = ("COMPANY",)


def temperature(request: Request) -> float | None:
    """None for a request without sampling."""
    return request.sampling.temperature if isinstance(request, CompletionRequest | ChatRequest) else None


class Counting(SoundModel):
    """Counts how often it gets the same request."""

    def __init__(self, inner: RunningModel) -> None:
        super().__init__(inner)
        self._asked: Counter[str] = Counter()

    def times_asked(self, request: Request) -> int:
        self._asked[repr(request)] += 1
        return self._asked[repr(request)]


class Moody(Counting):
    """Gives another answer to a greedy request the third time."""

    breaks = "test_greedy_repeats"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        bored = temperature(request) == 0 and self.times_asked(request) == 3
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                if bored and isinstance(output, Delta):
                    output = replace(output, text="again?")
                yield output


class Forgetful(Counting):
    """Gives another answer to the same seed the second time, without other requests."""

    breaks = "test_a_seed_repeats"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        if temperature(request) and self.times_asked(request) > 1 and len(self.present) == 1:
            request = with_sampling(request, seed=1234)
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                yield output


class Distracted(SoundModel):
    """Gives other answers while other requests run."""

    breaks = "test_a_seed_repeats_under_load"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        if temperature(request) and len(self.present) > 1:
            request = with_sampling(request, seed=1234)
        async with aclosing(super().answer(request)) as outputs:
            async for output in outputs:
                yield output


class Gossiping(SoundModel):
    """Answers another request if one runs at the same time."""

    breaks = "test_requests_do_not_mix"

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        heard = request
        for other in self.present:
            if other is not request and temperature(request) == 0:
                if isinstance(request, CompletionRequest) and isinstance(other, CompletionRequest):
                    heard = replace(request, prompt=other.prompt)
                elif isinstance(request, ChatRequest) and isinstance(other, ChatRequest):
                    heard = replace(request, messages=other.messages)
        async with aclosing(super().answer(heard)) as outputs:
            async for output in outputs:
                yield output


class Impatient(SoundModel):
    """Refuses requests if more than three wait."""

    breaks = "test_more_requests_than_run_at_once"

    def check(self, request: Request) -> None:
        super().check(request)
        if len(self.present) >= PARALLEL + 3:
            raise ServerBusy("too many are waiting")


class Leaking(SoundModel):
    """Continues after an abort, so that the next request finds no free place."""

    breaks = "test_who_leaves_frees_the_place"

    def __init__(self, inner: RunningModel) -> None:
        super().__init__(inner)
        self._left = 0

    def check(self, request: Request) -> None:
        super().check(request)
        if self._left >= PARALLEL:
            self._left = 0
            raise ServerBusy("every place is taken by somebody who left")

    async def answer(self, request: Request) -> AsyncGenerator[Output, None]:
        try:
            async with aclosing(super().answer(request)) as outputs:
                async for output in outputs:
                    yield output
        except (GeneratorExit, asyncio.CancelledError):
            self._left += 1
            raise


class Boasting(SoundModel):
    """Claims a task that its engine does not have."""

    breaks = "test_it_says_what_it_does"

    @property
    def info(self) -> ModelInfo:
        return replace(super().info, tasks=super().info.tasks | {"juggling"})


class Rude(SoundModel):
    """Raises a foreign exception for an unknown request."""

    breaks = "test_a_task_it_does_not_have"

    def check(self, request: Request) -> None:
        try:
            super().check(request)
        except Exception as error:
            raise TypeError(str(error)) from error


class Fragile(SoundModel):
    """Can be closed only once."""

    breaks = "test_closing_twice"

    async def aclose(self) -> None:
        if not self.alive:
            raise RuntimeError("already closed")
        await super().aclose()


COMPANY: tuple[type[SoundModel], ...] = (
    Moody,
    Forgetful,
    Distracted,
    Gossiping,
    Impatient,
    Leaking,
    Boasting,
    Rude,
    Fragile,
)
