"""The cases of a busy machine: one stream while other processes use the processors all the time."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from benchmarks.client import send
from benchmarks.dialects import Completion, Dialect, read_completion
from benchmarks.figures import Figures, figures, stream_of
from benchmarks.load import Load
from benchmarks.prompts import chat, words

__all__ = ("beside", "busy_processes")

_BURN = "print(flush=True)\nwhile True: pass"
_WARM_TOKENS = 8


def beside(processes: int) -> Callable[[Dialect, Load], Awaitable[Figures]]:
    """The case with this many busy processes. They begin when the model is loaded and has answered once."""

    async def run(dialect: Dialect, load: Load) -> Figures:
        await _ask(dialect, load, 700, _WARM_TOKENS)
        async with busy_processes(processes):
            return await _ask(dialect, load, 701 + processes, load.tokens)

    return run


async def _ask(dialect: Dialect, load: Load, number: int, tokens: int) -> Figures:
    prompt = chat("You tell long stories.", words(20, load.seed(number)))
    exchange = await send(dialect.path(), dialect.body(Completion(prompt=prompt, max_tokens=tokens)))
    return figures([stream_of(exchange, read_completion(dialect.name, await exchange.finish()))])


@asynccontextmanager
async def busy_processes(count: int) -> AsyncIterator[list[Process]]:
    """So many processes that compute without pause, from the moment that all of them run."""
    started: list[Process] = []
    try:
        for _ in range(count):
            started.append(
                await asyncio.create_subprocess_exec(sys.executable, "-c", _BURN, stdout=asyncio.subprocess.PIPE)
            )
        for one in started:
            assert one.stdout is not None
            if not await one.stdout.readline():
                raise RuntimeError("a process that keeps a processor busy could not be started")
        yield started
    finally:
        for one in started:
            with suppress(ProcessLookupError):
                one.kill()
        for one in started:
            await one.wait()
