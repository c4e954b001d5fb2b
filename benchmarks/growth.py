"""The case of a model that gets one user, and then many at once."""

from __future__ import annotations

import asyncio
import time

import msgspec

from benchmarks.client import Exchange, request, send
from benchmarks.dialects import Completion, Dialect, read_completion, unload
from benchmarks.figures import Figures, figures, stream_of
from benchmarks.load import Load
from benchmarks.prompts import chat, words

__all__ = ("growth",)

_FIRST_WORDS = 120
_OTHER_WORDS = 4
_LONGEST_ANSWER = 256
_ALONE_READS = 32


async def growth(dialect: Dialect, load: Load) -> Figures:
    """The gaps are those of the first stream, from the moment that the others arrive. Its answer has 256 tokens, so
    that it still goes on then; those of the others have `load.tokens`, but at most as many. The model has just been
    loaded, if the API can unload it: otherwise it is as the server's last requests have left it.
    """
    if dialect.unloads:
        await unload(dialect)
    first_prompt = chat(words(_FIRST_WORDS, load.seed(800)), words(20, load.seed(801)))
    other_prompts = [words(_OTHER_WORDS, load.seed(810 + number)) for number in range(load.streams - 1)]
    warm = Completion(prompt="Warm up.", max_tokens=4)
    read_completion(dialect.name, await request(dialect.path(), dialect.body(warm)))

    # Each prompt with its answer has fewer than 448 tokens: only the number of streams changes, not their length.
    first = await _ask(dialect, first_prompt, _LONGEST_ANSWER)
    await first.wait_arrivals(_ALONE_READS)
    arrived_ns = time.perf_counter_ns()
    tokens = min(load.tokens, _LONGEST_ANSWER)
    others = await asyncio.gather(*(_ask(dialect, prompt, tokens) for prompt in other_prompts))
    stream = stream_of(first, read_completion(dialect.name, await first.finish()))
    disturbing = [
        stream_of(other, read_completion(dialect.name, await other.finish()), measured=False) for other in others
    ]
    return figures([msgspec.structs.replace(stream, gaps_from_ns=arrived_ns), *disturbing])


async def _ask(dialect: Dialect, prompt: str, tokens: int) -> Exchange:
    return await send(dialect.path(), dialect.body(Completion(prompt=prompt, max_tokens=tokens)))
