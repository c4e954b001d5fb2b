"""A generation whose reader stops reading: the model is released once the answer has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from corral.core.errors import EngineDied
from corral.core.generation.answers import Generation
from corral.core.models.digests import Digest
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.requests.outputs import Delta, Finished, Output, Started, Usage
from corral.core.scheduling.leases import Lease

_RECORD = StoredModel(
    name=parse_name("tiny"), digest=Digest("sha256:" + "1" * 64), size_bytes=1, modified_at=0, format="gguf"
)
_MODEL: Any = None  # nobody asks for the lease's model
_LEASE = Lease(model=_MODEL, record=_RECORD, load_ns=1, engine="fake")


class Answer:
    """An answer of `count` deltas of `chars` characters each; records how many were made, and whether the lease
    came back."""

    def __init__(self, count: int, chars: int = 1, error: Exception | None = None) -> None:
        self._count = count
        self._chars = chars
        self._error = error
        self.made = 0
        self.closed = 0
        self.given_back = 0

    async def outputs(self) -> AsyncGenerator[Output, None]:
        try:
            yield Started(prompt_tokens=1)
            for _ in range(self._count):
                await asyncio.sleep(0)
                self.made += 1
                yield Delta(text=str(self.made % 10) * self._chars, token_count=1)
            if self._error is not None:
                raise self._error
            yield Finished(reason="stop", usage=Usage())
        finally:
            self.closed += 1

    def generation(self) -> Generation:
        def give_back() -> None:
            self.given_back += 1

        stack = AsyncExitStack()
        stack.callback(give_back)
        return Generation(_RECORD, _LEASE, self.outputs(), stack)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come true")


def test_the_model_is_given_back_before_the_answer_is_read() -> None:
    """The rest of the answer is kept, complete and in order, for a reader that has stopped reading."""

    async def test() -> None:
        answer = Answer(20)
        generation = answer.generation()
        first = [await anext(generation) for _ in range(3)]
        generation.read_ahead()
        generation.read_ahead()
        await until(lambda: answer.given_back == 1)
        outputs = first + [output async for output in generation]
        assert "".join(output.text for output in outputs if isinstance(output, Delta)) == "1234567890" * 2
        assert isinstance(outputs[-1], Finished)
        await generation.aclose()
        assert (answer.closed, answer.given_back) == (1, 1)

    run(test)


def test_a_reader_that_comes_back_early_waits_for_what_is_to_come() -> None:
    """Reading continues where it stopped, while the rest is still being generated."""

    async def test() -> None:
        answer = Answer(50)
        generation = answer.generation()
        await anext(generation)
        generation.read_ahead()
        outputs = [output async for output in generation]
        assert len(outputs) == 51
        assert answer.given_back == 1

    run(test)


def test_what_is_kept_is_bounded() -> None:
    """An endless answer is read ahead for some million characters at most, and continues with its reader."""

    async def test() -> None:
        answer = Answer(10**9, chars=100_000)
        generation = answer.generation()
        await anext(generation)
        generation.read_ahead()
        for _ in range(1000):
            await asyncio.sleep(0)
        made = answer.made
        assert 10 < made < 100
        for _ in range(20):
            await anext(generation)
        await until(lambda: answer.made > made)
        assert answer.given_back == 0
        await generation.aclose()
        assert (answer.closed, answer.given_back) == (1, 1)

    run(test)


def test_a_failure_reaches_the_reader_after_what_came_before() -> None:
    """What was read ahead is delivered, then the error; the model is released at once."""

    async def test() -> None:
        answer = Answer(3, error=EngineDied("it died"))
        generation = answer.generation()
        await anext(generation)
        generation.read_ahead()
        await until(lambda: answer.given_back == 1)
        for _ in range(3):
            assert isinstance(await anext(generation), Delta)
        with pytest.raises(EngineDied, match="it died"):
            await anext(generation)

    run(test)


def test_closing_ends_what_is_read_ahead() -> None:
    """A client that disconnects after all aborts its request."""

    async def test() -> None:
        answer = Answer(10**9)
        generation = answer.generation()
        await anext(generation)
        generation.read_ahead()
        await until(lambda: answer.made > 3)
        await generation.aclose()
        await generation.aclose()
        assert (answer.closed, answer.given_back) == (1, 1)

    run(test)


def test_a_reader_that_waits_for_the_model_does_not_stand_still() -> None:
    """While one task waits for an output, a second one may not read."""

    async def test() -> None:
        answer = Answer(5)
        generation = answer.generation()
        await anext(generation)
        reading = asyncio.ensure_future(anext(generation))
        await asyncio.sleep(0)
        generation.read_ahead()
        assert isinstance(await reading, Delta)
        assert len([output async for output in generation]) == 5

    run(test)
