"""Promises about concurrent answers: none affects another, and the same request gets the same answer."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from corral.core.ports.running import RunningModel
from corral.core.requests.requests import Request
from corral.plugins.testing.loaded import HeardAnswer, ModelUnderTest
from corral.plugins.testing.loading import LoadedContract, asked, promise

__all__ = ("CompanyPromises",)

_MOST_AT_ONCE = 8


class CompanyPromises(LoadedContract):
    """Completions and chats, many of them."""

    @promise("completion", "chat")
    def test_greedy_repeats(self, loaded: ModelUnderTest, task: str) -> None:
        """With temperature 0, the same request always gets the same text."""
        request = asked(task, self.prompts[0], num_predict=6)
        answers = [loaded.run(loaded.ask(request)) for _ in range(3)]
        self._unless_ignored(answers[0], "temperature")
        assert len({answer.text for answer in answers}) == 1

    @promise("completion", "chat")
    def test_a_seed_repeats(self, loaded: ModelUnderTest, task: str) -> None:
        """The same seed gives the same text again."""
        request = asked(task, self.prompts[1], temperature=1.0, seed=11)
        first, second = (loaded.run(loaded.ask(request)) for _ in range(2))
        self._unless_ignored(first, "seed")
        assert second.text == first.text

    @promise("completion", "chat")
    def test_a_seed_repeats_under_load(self, loaded: ModelUnderTest, task: str) -> None:
        """With ``exact``, the same seed gives the same text alongside other requests too."""
        self.require(loaded, "exact")
        request = asked(task, self.prompts[2], temperature=1.0, seed=12)
        others = [asked(task, prompt, temperature=1.0, seed=place) for place, prompt in enumerate(self.prompts)]
        alone = loaded.run(loaded.ask(request))
        self._unless_ignored(alone, "seed")
        amid = loaded.run(loaded.ask_together(*others[:2], request, *others[2:]))[2]
        assert amid.text == alone.text

    @promise("completion", "chat")
    def test_requests_do_not_mix(self, loaded: ModelUnderTest, task: str) -> None:
        """Each of several requests gets an answer to its own prompt: with ``exact``, the same text as alone."""
        requests = [asked(task, prompt, num_predict=3 + place) for place, prompt in enumerate(self.prompts)]
        alone = [loaded.run(loaded.ask(request)) for request in requests]
        together = loaded.run(loaded.ask_together(*requests))
        assert [_prompt_tokens(one) for one in together] == [_prompt_tokens(one) for one in alone]
        if "exact" in loaded.info.features:
            assert [one.text for one in together] == [one.text for one in alone]

    @promise("completion", "chat")
    def test_more_requests_than_run_at_once(self, loaded: ModelUnderTest, task: str) -> None:
        """Requests beyond `info.parallel` wait for their turn, and each of them is answered completely."""
        number = min(loaded.info.parallel, _MOST_AT_ONCE) + 4
        requests = [asked(task, f"{self.prompts[0]} {place}", num_predict=3) for place in range(number)]
        answers = loaded.run(loaded.ask_together(*requests))
        assert [answer.finished.reason in ("stop", "length") for answer in answers] == [True] * number

    @promise("completion", "chat")
    @pytest.mark.parametrize("leaving", ["closed", "cancelled"])
    def test_who_leaves_frees_the_place(self, loaded: ModelUnderTest, task: str, leaving: str) -> None:
        """An answer that is closed, or whose reader is cancelled, stops within a step: the next request can start."""
        endless = asked(task, self.prompts[3], ignore_eos=True, num_predict=100_000)
        places = min(loaded.info.parallel, _MOST_AT_ONCE)

        async def leave() -> HeardAnswer:
            leaves = _closed if leaving == "closed" else _cancelled
            await asyncio.gather(*(leaves(loaded.model, endless) for _ in range(places)))
            return await loaded.ask(asked(task, self.prompts[0], num_predict=2))

        assert loaded.run(leave()).finished
        assert loaded.model.alive

    @staticmethod
    def _unless_ignored(answer: HeardAnswer, option: str) -> None:
        if answer.started is not None and option in answer.started.ignored_options:
            pytest.skip(f"the model says itself that it ignores {option}")


def _prompt_tokens(answer: HeardAnswer) -> int | None:
    return None if answer.started is None else answer.started.prompt_tokens


async def _closed(model: RunningModel, request: Request) -> None:
    outputs = model.run(request)
    await anext(outputs)
    await outputs.aclose()


async def _cancelled(model: RunningModel, request: Request) -> None:
    began = asyncio.Event()

    async def read() -> None:
        try:
            async for _ in model.run(request):
                began.set()
        finally:
            began.set()

    reader = asyncio.create_task(read())
    await began.wait()
    reader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reader
