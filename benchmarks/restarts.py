"""The case of a server that has restarted and gets a prompt that it has seen before."""

from __future__ import annotations

import asyncio

import msgspec

from benchmarks.client import send
from benchmarks.dialects import Completion, Dialect, read_completion
from benchmarks.figures import Figures, Stream, figures, stream_of
from benchmarks.load import Load
from benchmarks.prompts import chat, words
from benchmarks.servers import Target, running

__all__ = ("after_restart",)

_WORDS = 2300


async def after_restart(target: Target, load: Load) -> Figures:
    """The figures are those of the second server; the late request is the same prompt on the first, unseen.

    Raises `RuntimeError` if the server was not started here.
    """
    if target.start is None:
        raise RuntimeError(f"the server at {target.url} can only be restarted if its command is given with --start")
    prompt = chat(words(_WORDS, load.seed(600)), words(20, load.seed(601)))
    async with running(target) as server:
        unseen = await _ask(server.dialect, prompt)
        await asyncio.sleep(load.pause_s)
    async with running(target) as server:
        seen = await _ask(server.dialect, prompt)
    later_ns = seen.started_ns - unseen.ended_ns
    return figures([_moved(unseen, later_ns), seen])


async def _ask(dialect: Dialect, prompt: str) -> Stream:
    exchange = await send(dialect.path(), dialect.body(Completion(prompt=prompt, max_tokens=8)))
    return stream_of(exchange, read_completion(dialect.name, await exchange.finish()))


def _moved(stream: Stream, by_ns: int) -> Stream:
    """The stream as one that ended when the next began, so that the restart itself does not count."""
    return msgspec.structs.replace(
        stream,
        started_ns=stream.started_ns + by_ns,
        text_at_ns=[at_ns + by_ns for at_ns in stream.text_at_ns],
        ended_ns=stream.ended_ns + by_ns,
        measured=False,
    )
