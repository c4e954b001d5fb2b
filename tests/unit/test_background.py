"""Work in the background: bounded for each principal and in all, ended by its owner, by itself, or with the server."""

from __future__ import annotations

import asyncio
import logging

import pytest

from corral.core.access_errors import TooManyRequests
from corral.core.errors import ServerBusy
from corral.core.generation.background import BackgroundWork
from corral.core.requests.principal import Principal, RequestLimits

ADA, BOB = Principal(name="ada"), Principal(name="bob")


def test_it_is_found_until_it_ends() -> None:
    """By its owner alone; what fails is logged, and gone."""

    async def run() -> None:
        background = BackgroundWork[str]()
        done = asyncio.Event()
        background.start(ADA, "1", "subject", lambda: _until(done))
        assert background.find("ada", "1") == "subject"
        assert background.find("bob", "1") is None
        await background.cancel("bob", "1")
        done.set()
        await _gone(background, "ada", "1")

    asyncio.run(run())


def test_an_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for the work, so its error would be lost."""

    async def broken() -> None:
        raise ValueError("boom")

    async def run() -> None:
        background = BackgroundWork[str]()
        background.start(ADA, "1", "x", broken)
        await _gone(background, "ada", "1")

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "boom" in caplog.text


def test_cancelling_waits_for_the_end() -> None:
    """Also of work that has not begun yet; everything ends with the server."""
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("one")

    async def run() -> None:
        background = BackgroundWork[str]()
        background.start(ADA, "1", "x", endless)
        await background.cancel("ada", "1")  # before its first step
        await _gone(background, "ada", "1")
        for id in ("2", "3"):
            background.start(ADA, id, "x", endless)
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
        background = BackgroundWork[str]()
        tight = Principal(name="tight", limits=RequestLimits(parallel=1))
        background.start(tight, "1", "x", _forever)
        with pytest.raises(TooManyRequests, match="'tight' may have 1 requests in the background"):
            background.start(tight, "2", "x", _forever)
        for number in range(16):
            background.start(ADA, str(number), "x", _forever)
        with pytest.raises(TooManyRequests, match="may have 16"):
            background.require_room(ADA)
        for number in range(47):
            background.start(Principal(name=f"p{number % 4}"), str(number), "x", _forever)
        with pytest.raises(ServerBusy, match="64 requests are running"):
            background.start(BOB, "1", "x", _forever)
        await background.aclose()

    asyncio.run(run())


async def _until(done: asyncio.Event) -> None:
    await done.wait()


async def _forever() -> None:
    await asyncio.Event().wait()


async def _gone(background: BackgroundWork[str], owner: str, id: str) -> None:
    for _ in range(100):
        if background.find(owner, id) is None:
            return
        await asyncio.sleep(0)
    raise AssertionError("it is still there")
