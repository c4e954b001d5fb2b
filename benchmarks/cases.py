"""The cases: streams of their own, with a shared prompt, a long prompt that arrives late, rewriting, conversations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from benchmarks.busy import beside
from benchmarks.client import Exchange, send
from benchmarks.conversations import at_once, conversation, many_long_chats, ten_chats
from benchmarks.dialects import Completion, Dialect, read_completion
from benchmarks.figures import Figures, Stream, figures, stream_of
from benchmarks.growth import growth
from benchmarks.load import Load
from benchmarks.prompts import SYSTEM_WORDS, chat, words
from benchmarks.restarts import after_restart
from benchmarks.servers import Target

__all__ = ("CASES", "Case", "run_streams")

_LATE_WORDS = 1500
_LATE_AFTER_READS = 8
_REWRITTEN_WORDS = 150
_REPEATED_WORDS = 20


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Either `run` on a running server, or `again`, which starts the server itself, more than once."""

    title: str
    run: Callable[[Dialect, Load], Awaitable[Figures]] | None = None
    again: Callable[[Target, Load], Awaitable[Figures]] | None = None


async def run_streams(dialect: Dialect, completions: list[Completion]) -> list[Stream]:
    """All requests at once, each on a separate connection."""
    exchanges = await asyncio.gather(*(send(dialect.path(), dialect.body(one)) for one in completions))
    return [await _stream(dialect, exchange) for exchange in exchanges]


async def _stream(dialect: Dialect, exchange: Exchange, *, measured: bool = True) -> Stream:
    return stream_of(exchange, read_completion(dialect.name, await exchange.finish()), measured=measured)


async def _one(dialect: Dialect, load: Load) -> Figures:
    prompt = chat("You tell long stories.", words(20, load.seed(0)))
    return figures(await run_streams(dialect, [Completion(prompt=prompt, max_tokens=max(load.tokens, 128))]))


async def _shared(dialect: Dialect, load: Load) -> Figures:
    system = words(SYSTEM_WORDS, load.seed(1))
    return figures(
        await run_streams(
            dialect,
            [
                Completion(prompt=chat(system, words(12, load.seed(10 + number))), max_tokens=load.tokens)
                for number in range(load.streams)
            ],
        )
    )


async def _distinct(dialect: Dialect, load: Load) -> Figures:
    prompts = [words(100, load.seed(100 + number)) for number in range(load.streams)]
    return figures(await run_streams(dialect, [Completion(prompt=one, max_tokens=load.tokens) for one in prompts]))


async def _late(dialect: Dialect, load: Load) -> Figures:
    """Half the streams run; the late prompt is sent when each of them has shown some text."""
    count = max(load.streams // 2, 1)
    early = [
        Completion(prompt=words(20, load.seed(200 + number)), max_tokens=max(4 * load.tokens, 64))
        for number in range(count)
    ]
    late = Completion(prompt=words(_LATE_WORDS, load.seed(300)), max_tokens=8)
    exchanges = await asyncio.gather(*(send(dialect.path(), dialect.body(one)) for one in early))
    await asyncio.gather(*(exchange.wait_arrivals(_LATE_AFTER_READS) for exchange in exchanges))
    arriving = await send(dialect.path(), dialect.body(late))
    streams = [await _stream(dialect, exchange) for exchange in exchanges]
    return figures([*streams, await _stream(dialect, arriving, measured=False)])


async def _rewrite(dialect: Dialect, load: Load) -> Figures:
    """The model has begun to repeat its prompt, and goes on."""
    passage = words(_REWRITTEN_WORDS, load.seed(350))
    beginning = " ".join(passage.split()[:_REPEATED_WORDS])
    prompt = f"{passage}\n\n{passage}\n\n{beginning}"
    return figures(await run_streams(dialect, [Completion(prompt=prompt, max_tokens=max(2 * load.tokens, 16))]))


CASES: Mapping[str, Case] = {
    "one": Case(title="one stream", run=_one),
    "shared": Case(title="streams with one system prompt of about 400 tokens", run=_shared),
    "distinct": Case(title="streams with distinct prompts of 100 words", run=_distinct),
    "late": Case(title="streams running when a prompt of 1,500 words arrives", run=_late),
    "growth": Case(title="one stream of a new model when N - 1 others arrive at once", run=growth),
    "rewrite": Case(title="an answer that repeats its prompt", run=_rewrite),
    "conversation": Case(title="one chat of 6 turns, with a pause before each", run=conversation),
    "at-once": Case(title="one chat of 6 turns, without pauses", run=at_once),
    "chats": Case(title="ten chats of 3 turns, by turns", run=ten_chats),
    "long-chats": Case(title="forty chats of about 1,000 tokens, by turns", run=many_long_chats),
    "busy-1": Case(title="one stream beside one busy process", run=beside(1)),
    "busy-2": Case(title="one stream beside two busy processes", run=beside(2)),
    "busy-16": Case(title="one stream beside sixteen busy processes", run=beside(16)),
    "restart": Case(title="3,000 tokens after a restart, seen before (late: unseen)", again=after_restart),
}
