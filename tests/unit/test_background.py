"""Work in the background: bounded for each principal and in all, ended by its owner, by itself, or with the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from corral.core.access.limits import RateLimits
from corral.core.access_errors import TooManyRequests
from corral.core.errors import ServerBusy
from corral.core.generation.background import BackgroundWork, Turn
from corral.core.requests.principal import Principal, RequestLimits

ADA, BOB = Principal(name="ada"), Principal(name="bob")


def test_it_is_found_until_it_ends() -> None:
    """By its owner alone; what fails is logged, and gone."""

    async def run() -> None:
        background = BackgroundWork[str](RateLimits())
        done = asyncio.Event()
        _start(background, ADA, "1", "subject", partial(_until, done))
        assert background.find("ada", "1") == "subject"
        assert background.find("bob", "1") is None
        await background.cancel("bob", "1")
        done.set()
        await _gone(background, "ada", "1")

    asyncio.run(run())


def test_an_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for the work, so its error would be lost."""

    async def broken(turn: Turn) -> None:
        raise ValueError("boom")

    async def run() -> None:
        background = BackgroundWork[str](RateLimits())
        _start(background, ADA, "1", "x", broken)
        await _gone(background, "ada", "1")

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "boom" in caplog.text


def test_cancelling_waits_for_the_end() -> None:
    """Also of work that has not begun yet; everything ends with the server."""
    ended: list[str] = []

    async def endless(turn: Turn) -> None:
        try:
            await _forever(turn)
        finally:
            ended.append("one")

    async def run() -> None:
        background = BackgroundWork[str](RateLimits())
        _start(background, ADA, "1", "x", endless)
        await background.cancel("ada", "1")  # before its first step
        await _gone(background, "ada", "1")
        for id in ("2", "3"):
            _start(background, ADA, id, "x", endless)
        await asyncio.sleep(0)
        await background.cancel("ada", "2")
        assert ended == ["one"]
        await background.aclose()
        await background.aclose()
        assert ended == ["one", "one"]

    asyncio.run(run())


def test_how_much_there_may_be() -> None:
    """A principal's limit of parallel requests counts, if it is lower than what everyone may have."""

    async def run() -> None:
        background = BackgroundWork[str](RateLimits())
        tight = Principal(name="tight", limits=RequestLimits(parallel=1))
        _start(background, tight, "1", "x", _forever)
        with pytest.raises(TooManyRequests, match="'tight' may have 1 requests in the background"):
            _start(background, tight, "2", "x", _forever)
        for number in range(16):
            _start(background, ADA, str(number), "x", _forever)
        with pytest.raises(TooManyRequests, match="may have 16"):
            _start(background, ADA, "17", "x", _forever)
        for number in range(47):
            _start(background, Principal(name=f"p{number % 4}"), str(number), "x", _forever)
        with pytest.raises(ServerBusy, match="64 requests are running"):
            _start(background, BOB, "1", "x", _forever)
        await background.aclose()

    asyncio.run(run())


def test_a_place_is_kept_until_it_starts() -> None:
    """So two that begin at once are not both let in; one that comes to nothing leaves its place."""

    async def run() -> None:
        background = BackgroundWork[str](RateLimits())
        tight = Principal(name="tight", limits=RequestLimits(parallel=1))
        with background.place(tight), pytest.raises(TooManyRequests), background.place(tight):
            pass
        with pytest.raises(ValueError, match="the disk"), background.place(tight):
            raise ValueError("the disk")
        _start(background, tight, "1", "x", _forever)
        await background.aclose()

    asyncio.run(run())


def test_it_takes_turns_with_requests() -> None:
    """What runs counts with the requests of its principal, and begins, in order, when they leave it a place."""

    async def run() -> None:
        limits = RateLimits()
        background = BackgroundWork[str](limits)
        pair = Principal(name="pair", limits=RequestLimits(parallel=2))
        begun: list[str] = []

        async def work(id: str, turn: Turn) -> None:
            async with turn:
                begun.append(id)
                await asyncio.Event().wait()

        for _ in range(2):
            limits.enter(pair)
        for id in ("1", "2"):
            _start(background, pair, id, "x", partial(work, id))
        await _settled()
        assert begun == []
        limits.leave(pair)
        await _settled()
        assert begun == ["1"]
        limits.require_place(pair)
        assert not limits.enter_beside(pair)
        limits.enter(pair)  # one that asks no model
        with pytest.raises(TooManyRequests, match="may have 2 requests at once"):
            limits.require_place(pair)
        for _ in range(2):
            limits.leave(pair)
        await _settled()
        assert begun == ["1", "2"]
        await background.cancel("pair", "1")
        limits.enter(pair)
        limits.require_place(pair)
        await background.aclose()
        assert limits.enter_beside(pair)  # every place has come back

    asyncio.run(run())


@pytest.mark.parametrize("waits", [True, False])
def test_its_end_is_told_once(waits: bool) -> None:
    """Also if it is cancelled while it waits for its turn."""

    async def run() -> None:
        limits = RateLimits()
        background = BackgroundWork[str](limits)
        tight = Principal(name="tight", limits=RequestLimits(parallel=1))
        if waits:
            limits.enter(tight)
        ended: list[str] = []
        with background.place(tight) as start:
            start("1", "x", _forever, lambda: ended.append("1"))
        await _settled()
        assert not ended
        await background.cancel("tight", "1")
        await _settled()
        assert ended == ["1"]

    asyncio.run(run())


def _start(
    background: BackgroundWork[str],
    principal: Principal,
    id: str,
    subject: str,
    work: Callable[[Turn], Awaitable[None]],
) -> None:
    with background.place(principal) as start:
        start(id, subject, work, lambda: None)


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _until(done: asyncio.Event, turn: Turn) -> None:
    async with turn:
        await done.wait()


async def _forever(turn: Turn) -> None:
    await _until(asyncio.Event(), turn)


async def _gone(background: BackgroundWork[str], owner: str, id: str) -> None:
    for _ in range(100):
        if background.find(owner, id) is None:
            return
        await asyncio.sleep(0)
    raise AssertionError("it is still there")
