"""Whether the same request gives the same text alone on a fresh server and among other requests."""

from __future__ import annotations

import asyncio
import random
import shlex
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from benchmarks.client import Exchange, request, send
from benchmarks.dialects import Completion, Dialect, read_completion, unload
from benchmarks.prompts import QUESTIONS, chat, next_turn, words
from benchmarks.servers import Target, running

__all__ = ("CONDITIONS", "MODES", "SETTLED", "Outcome", "check")

MODES: Mapping[str, tuple[float, int]] = {"greedy": (0.0, 1), "temperature 1, fixed seed": (1.0, 42)}

_SYSTEM = words(60, 7)
_BEGUN_READS = 5
_SETTLING_S = 1.5
SETTLED = "settled answer"
"""The condition of a second turn: its prompts are other ones."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How many texts were the same under one condition. `differing` are the numbers of the other prompts."""

    mode: str
    condition: str
    equal: int
    of: int
    differing: list[int]


def _completion(number: int, mode: str, tokens: int) -> Completion:
    temperature, seed = MODES[mode]
    prompt = chat(_SYSTEM, QUESTIONS[number])
    return Completion(prompt=prompt, max_tokens=tokens, temperature=temperature, seed=seed, ignore_eos=False)


def _neighbour(number: int, *, num_ctx: int | None = None) -> Completion:
    return Completion(
        prompt=words(30, 5000 + number), max_tokens=400, temperature=1.0, seed=number, ignore_eos=True, num_ctx=num_ctx
    )


async def _text(dialect: Dialect, completion: Completion) -> str:
    response = await request(dialect.path(), dialect.body(completion))
    return read_completion(dialect.name, response).text


async def _open(dialect: Dialect, completion: Completion) -> Exchange:
    return await send(dialect.path(), dialect.body(completion))


@asynccontextmanager
async def _neighbours(dialect: Dialect, completions: Sequence[Completion]) -> AsyncIterator[list[Exchange]]:
    """Streams that run while the context lasts, and are disconnected afterwards."""
    exchanges = [await _open(dialect, one) for one in completions]
    try:
        await asyncio.gather(*(exchange.wait_arrivals(_BEGUN_READS) for exchange in exchanges))
        yield exchanges
    finally:
        for exchange in exchanges:
            exchange.abort()


async def _in_traffic(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """All prompts, eight at a time, in another order."""
    slots = asyncio.Semaphore(8)
    texts = [""] * len(completions)

    async def one(number: int) -> None:
        async with slots:
            texts[number] = await _text(dialect, completions[number])

    order = list(range(len(completions)))
    random.Random(1).shuffle(order)
    await asyncio.gather(*map(one, order))
    return texts


async def _on_cached_prefix(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """Each prompt after one with the same beginning and another end, and after itself."""
    texts = []
    for completion in completions:
        longer = msgspec.structs.replace(completion, prompt=completion.prompt + "Well, to begin with,", max_tokens=8)
        await _text(dialect, longer)
        await _text(dialect, msgspec.structs.replace(completion, max_tokens=4))
        texts.append(await _text(dialect, completion))
    return texts


async def _joining_late(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """Each prompt arrives while three others are generating."""
    texts = []
    for number, completion in enumerate(completions):
        async with _neighbours(dialect, [_neighbour(3 * number + one) for one in range(3)]):
            texts.append(await _text(dialect, completion))
    return texts


async def _neighbour_cancelled(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """While each prompt is being answered, three neighbours are cancelled one by one."""
    texts = []
    for number, completion in enumerate(completions):
        async with _neighbours(dialect, [_neighbour(3 * number + one) for one in range(3)]) as neighbours:
            exchange = await _open(dialect, completion)
            for reads, neighbour in zip((2, 8, 16), neighbours, strict=True):
                await exchange.wait_arrivals(reads)
                neighbour.abort()
            texts.append(read_completion(dialect.name, await exchange.finish()).text)
    return texts


async def _neighbour_shifted(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """Each prompt runs next to a stream whose context is so small that it is shifted all the time."""
    texts = []
    for number, completion in enumerate(completions):
        async with _neighbours(dialect, [_neighbour(number, num_ctx=96)]):
            texts.append(await _text(dialect, completion))
    return texts


async def _threads_moving(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """As traffic, while another process keeps one core busy on and off, so that the server changes its threads."""

    async def disturb() -> None:
        while True:
            busy = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
            try:
                await asyncio.sleep(3)
            finally:
                busy.kill()
                await busy.wait()
            await asyncio.sleep(2)

    disturbing = asyncio.create_task(disturb())
    try:
        return await _in_traffic(dialect, completions)
    finally:
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)


async def _pushed_out(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """All prompts one after the other, and once more in the same order: by then others have taken their place."""
    await _all_shortly(dialect, completions)
    return [await _text(dialect, completion) for completion in completions]


async def _loaded_again(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """All prompts, and once more after the model has been unloaded."""
    await _all_shortly(dialect, completions)
    await unload(dialect)
    return [await _text(dialect, completion) for completion in completions]


async def _all_shortly(dialect: Dialect, completions: Sequence[Completion]) -> None:
    for completion in completions:
        await _text(dialect, msgspec.structs.replace(completion, max_tokens=4))


async def _outgrown(dialect: Dialect, completions: Sequence[Completion]) -> list[str]:
    """Each prompt is the first of a model that has just been loaded; seven others arrive while it is answered."""
    texts = []
    for number, completion in enumerate(completions):
        await unload(dialect)
        exchange = await _open(dialect, completion)
        await exchange.wait_arrivals(3)
        async with _neighbours(dialect, [_neighbour(7 * number + one) for one in range(7)]):
            texts.append(read_completion(dialect.name, await exchange.finish()).text)
    return texts


async def _settled(dialect: Dialect, first: Sequence[Completion], second: Sequence[Completion]) -> list[str]:
    """The second turn of each conversation, some time after the first."""
    texts = []
    for before, after in zip(first, second, strict=True):
        await _text(dialect, before)
        await asyncio.sleep(_SETTLING_S)
        texts.append(await _text(dialect, after))
    return texts


CONDITIONS: Mapping[str, Callable[[Dialect, Sequence[Completion]], Awaitable[list[str]]]] = {
    "traffic of 8": _in_traffic,
    "cached prefix": _on_cached_prefix,
    "late join": _joining_late,
    "neighbour cancelled": _neighbour_cancelled,
    "neighbour shifted": _neighbour_shifted,
    "threads moving": _threads_moving,
    "host memory": _pushed_out,
    "loaded again": _loaded_again,
    "growing": _outgrown,
}


async def check(
    target: Target,
    conditions: Sequence[str],
    *,
    prompts: int = len(QUESTIONS),
    tokens: int = 48,
    clear: str | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Compare the texts of each condition with those of a fresh server. Raises `RuntimeError`.

    `clear` is a command that empties what the server keeps on disk, so that a fresh server is one.
    """
    outcomes = []

    def judged(mode: str, condition: str, texts: Sequence[str], expected: Sequence[str]) -> Outcome:
        differing = [number for number in range(prompts) if texts[number] != expected[number]]
        return Outcome(mode=mode, condition=condition, equal=prompts - len(differing), of=prompts, differing=differing)

    for mode in MODES:
        completions = [_completion(number, mode, tokens) for number in range(prompts)]
        on_step(f"{mode}: alone on a fresh server")
        expected = await _alone(target, completions, clear)
        if SETTLED in conditions:
            later = [_later(completions[number], expected[number], number) for number in range(prompts)]
            on_step(f"{mode}: second turns alone on a fresh server")
            expected_later = await _alone(target, later, clear)
            async with running(target) as server:
                on_step(f"{mode}: {SETTLED}")
                texts = await _settled(server.dialect, completions, later)
                outcomes.append(judged(mode, SETTLED, texts, expected_later))
        async with running(target) as server:
            for condition in conditions:
                if condition != SETTLED:
                    on_step(f"{mode}: {condition}")
                    texts = await CONDITIONS[condition](server.dialect, completions)
                    outcomes.append(judged(mode, condition, texts, expected))
    return outcomes


def _later(completion: Completion, answer: str, number: int) -> Completion:
    question = QUESTIONS[(number + 1) % len(QUESTIONS)]
    return msgspec.structs.replace(completion, prompt=next_turn(completion.prompt, answer, question))


async def _alone(target: Target, completions: Sequence[Completion], clear: str | None) -> list[str]:
    """Each prompt on a server with nothing in memory: the model is unloaded first, or the server is restarted."""
    texts = []
    if target.start is not None and target.dialect not in (None, "ollama"):
        for completion in completions:
            await _clear(clear)
            async with running(target, warm=False) as server:
                texts.append(await _text(server.dialect, completion))
        return texts
    async with running(target, warm=False) as server:
        for completion in completions:
            await unload(server.dialect)
            await _clear(clear)
            texts.append(await _text(server.dialect, completion))
    return texts


async def _clear(command: str | None) -> None:
    if command is None:
        return
    process = await asyncio.create_subprocess_exec(*shlex.split(command), stdout=DEVNULL, stderr=PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command}: status {process.returncode}: {said[-500:].decode(errors='replace')}")
