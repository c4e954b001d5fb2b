"""The cases: one stream, a shared system prompt, distinct prompts, a long prompt that arrives late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from benchmarks.client import Exchange, send
from benchmarks.dialects import Completion, Dialect, read_completion
from benchmarks.figures import Figures, Stream, figures
from benchmarks.prompts import SYSTEM_WORDS, chat, words

__all__ = ("CASES", "Case", "Load", "run_streams")

_LATE_WORDS = 1500
_LATE_AFTER_READS = 8


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How much to ask for. `round` changes every prompt, so that no round finds earlier prompts in a cache."""

    streams: int
    tokens: int
    round: int


class Case(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    run: Callable[[Dialect, Load], Awaitable[Figures]]


async def run_streams(dialect: Dialect, completions: list[Completion]) -> list[Stream]:
    """All requests at once, each on a separate connection."""
    exchanges = await asyncio.gather(*(send(dialect.path(), dialect.body(one)) for one in completions))
    return [await _stream(dialect, exchange) for exchange in exchanges]


async def _stream(dialect: Dialect, exchange: Exchange, *, measured: bool = True) -> Stream:
    generated = read_completion(dialect.name, await exchange.finish())
    return Stream(
        started_ns=exchange.started_ns,
        text_at_ns=generated.text_at_ns,
        ended_ns=exchange.arrivals[-1][0],
        generated_tokens=generated.generated_tokens,
        prompt_tokens=generated.prompt_tokens,
        measured=measured,
    )


def _seed(load: Load, number: int) -> int:
    return 1000 * load.round + number


async def _one(dialect: Dialect, load: Load) -> Figures:
    prompt = chat("You tell long stories.", words(20, _seed(load, 0)))
    return figures(await run_streams(dialect, [Completion(prompt=prompt, max_tokens=max(load.tokens, 128))]))


async def _shared(dialect: Dialect, load: Load) -> Figures:
    system = words(SYSTEM_WORDS, _seed(load, 1))
    return figures(
        await run_streams(
            dialect,
            [
                Completion(prompt=chat(system, words(12, _seed(load, 10 + number))), max_tokens=load.tokens)
                for number in range(load.streams)
            ],
        )
    )


async def _distinct(dialect: Dialect, load: Load) -> Figures:
    prompts = [words(100, _seed(load, 100 + number)) for number in range(load.streams)]
    return figures(await run_streams(dialect, [Completion(prompt=one, max_tokens=load.tokens) for one in prompts]))


async def _late(dialect: Dialect, load: Load) -> Figures:
    """Half the streams run; the late prompt is sent when each of them has shown some text."""
    count = max(load.streams // 2, 1)
    early = [
        Completion(prompt=words(20, _seed(load, 200 + number)), max_tokens=max(4 * load.tokens, 64))
        for number in range(count)
    ]
    late = Completion(prompt=words(_LATE_WORDS, _seed(load, 300)), max_tokens=8)
    exchanges = await asyncio.gather(*(send(dialect.path(), dialect.body(one)) for one in early))
    await asyncio.gather(*(exchange.wait_arrivals(_LATE_AFTER_READS) for exchange in exchanges))
    arriving = await send(dialect.path(), dialect.body(late))
    streams = [await _stream(dialect, exchange) for exchange in exchanges]
    return figures([*streams, await _stream(dialect, arriving, measured=False)])


CASES: Mapping[str, Case] = {
    "one": Case(title="one stream", run=_one),
    "shared": Case(title="streams with one system prompt of about 400 tokens", run=_shared),
    "distinct": Case(title="streams with distinct prompts of 100 words", run=_distinct),
    "late": Case(title="streams running when a prompt of 1,500 words arrives", run=_late),
}
