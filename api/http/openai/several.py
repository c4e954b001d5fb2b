"""Several answers to one prompt or to several, as one: the first computes the prompt, and the others begin with what it
has left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from corral.core.access.limits import RateLimits
from corral.core.generation.answers import Generation
from corral.core.requests.outputs import Finished, Output, Started, Usage
from corral.core.requests.principal import Principal

__all__ = ("OfChoice", "SeveralAnswers")


class OfChoice(Output, frozen=True, kw_only=True):
    """An output of the answer with this index."""

    index: int
    output: Output


class SeveralAnswers:
    """An `AnswerSource` of `OfChoice`s that ends with `Finished`, whose usage is that of all answers.

    `first` is the answer with the index 0; `open` starts the one with an index. Every `choices` of them, by their
    indices, answer the same prompt. Closing it closes them all. If one fails, the others are aborted and its error is
    raised. What a reader does not read is kept, so that it holds up no answer. They run at once as far as the limits of
    the principal allow, the others after them.
    """

    def __init__(
        self,
        first: Generation,
        open: Callable[[int], Awaitable[Generation]],
        count: int,
        choices: int,
        limits: RateLimits,
        principal: Principal,
    ) -> None:
        self.record = first.record
        self.load_ns = first.load_ns
        self._first = first
        self._open = open
        self._count = count
        self._choices = choices
        self._left = deque(range(1, count))
        self._limits = limits
        self._principal = principal
        self._ready: asyncio.Queue[OfChoice | Exception] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def read_ahead(self) -> None:
        """They always are."""

    def __aiter__(self) -> AsyncGenerator[Output, None]:
        return self._outputs()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self._first.aclose()

    async def _outputs(self) -> AsyncGenerator[Output, None]:
        finished: dict[int, Finished] = {}
        self._tasks.append(asyncio.create_task(self._run(0)))
        while len(finished) < self._count:
            ready = await self._ready.get()
            if isinstance(ready, Exception):
                raise ready
            if ready.index == 0 and len(self._tasks) == 1 and isinstance(ready.output, Started | Finished):
                self._tasks += [asyncio.create_task(self._run_beside()) for _ in self._left]
            if isinstance(ready.output, Finished):
                finished[ready.index] = ready.output
            yield ready
        usages = [finished[index].usage for index in range(self._count)]
        groups = [usages[start : start + self._choices] for start in range(0, self._count, self._choices)]
        yield Finished(reason=finished[0].reason, usage=_joint(groups))

    async def _run_beside(self) -> None:
        if self._left and self._limits.enter_beside(self._principal):
            try:
                await self._run(self._left.popleft())
            finally:
                self._limits.leave(self._principal)

    async def _run(self, index: int) -> None:
        """The answer with this index, and after it those that nobody has begun."""
        try:
            while True:
                async with self._first if index == 0 else await self._open(index) as answer:
                    async for output in answer:
                        self._ready.put_nowait(OfChoice(index=index, output=output))
                if not self._left:
                    return
                index = self._left.popleft()
        except Exception as error:
            self._ready.put_nowait(error)


def _joint(groups: list[list[Usage]]) -> Usage:
    """Each prompt counts once, as it was for the answer that computed most of it."""
    prompts = [min(usages, key=lambda usage: usage.cached_tokens) for usages in groups]
    return Usage(
        prompt_tokens=sum(prompt.prompt_tokens for prompt in prompts),
        cached_tokens=sum(prompt.cached_tokens for prompt in prompts),
        generated_tokens=sum(usage.generated_tokens for usages in groups for usage in usages),
    )
