"""Cases of conversations, where each request has everything before it as its prompt: one chat, and many by turns."""

from __future__ import annotations

import asyncio

from benchmarks.client import send
from benchmarks.dialects import Completion, Dialect, read_completion
from benchmarks.figures import Figures, Stream, figures, stream_of
from benchmarks.load import Load
from benchmarks.prompts import chat, next_turn, words

__all__ = ("at_once", "conversation", "many_long_chats", "ten_chats")

_TURNS = 6
_ANSWER_TOKENS = 128
_SYSTEM_WORDS = 60
_QUESTION_WORDS = 20


class _Chat:
    """One conversation, as the text that every server gets."""

    def __init__(self, dialect: Dialect, system_words: int, seed: int) -> None:
        self._dialect = dialect
        self._seed = seed
        self._turn = 0
        self._prompt = chat(words(system_words, seed), words(_QUESTION_WORDS, seed + 1))

    async def turn(self, tokens: int) -> Stream:
        """Ask, and read the answer. The first turn does not count as measured."""
        completion = Completion(prompt=self._prompt, max_tokens=tokens)
        exchange = await send(self._dialect.path(), self._dialect.body(completion))
        generated = read_completion(self._dialect.name, await exchange.finish())
        stream = stream_of(exchange, generated, measured=self._turn > 0)
        self._turn += 1
        self._prompt = next_turn(self._prompt, generated.text, words(_QUESTION_WORDS, self._seed + 1 + self._turn))
        return stream


async def conversation(dialect: Dialect, load: Load) -> Figures:
    """One chat; its user reads for a while before each further question."""
    return await _one_chat(dialect, load, load.pause_s)


async def at_once(dialect: Dialect, load: Load) -> Figures:
    """The same chat with a user who asks on at once."""
    return await _one_chat(dialect, load, 0.0)


async def ten_chats(dialect: Dialect, load: Load) -> Figures:
    """Ten chats take turns, three each, one request at a time."""
    return await _by_turns(dialect, load, chats=10, turns=3, system_words=_SYSTEM_WORDS, tokens=32)


async def many_long_chats(dialect: Dialect, load: Load) -> Figures:
    """Forty chats, each with a system prompt of about 1,000 tokens, take turns, two each."""
    return await _by_turns(dialect, load, chats=40, turns=2, system_words=760, tokens=16)


async def _one_chat(dialect: Dialect, load: Load, pause_s: float) -> Figures:
    one = _Chat(dialect, _SYSTEM_WORDS, load.seed(400))
    streams = []
    for turn in range(_TURNS):
        if turn:
            await asyncio.sleep(pause_s)
        streams.append(await one.turn(min(_ANSWER_TOKENS, 2 * load.tokens)))
    return figures(streams)


async def _by_turns(dialect: Dialect, load: Load, *, chats: int, turns: int, system_words: int, tokens: int) -> Figures:
    conversations = [_Chat(dialect, system_words, load.seed(500 + 10 * number)) for number in range(chats)]
    return figures([await one.turn(min(tokens, load.tokens)) for _ in range(turns) for one in conversations])
