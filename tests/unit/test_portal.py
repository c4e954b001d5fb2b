"""The background loop that blocking code calls into."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from corral.api.library.portal import Portal


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers that raise signals")
def test_an_interrupt_waits_for_the_call_to_clean_up() -> None:
    """When an interrupt leaves a call, what the call was doing has ended and does not run on afterwards."""
    portal = Portal("test")
    cleaned: list[bool] = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned.append(True)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            portal.call(long)
        assert cleaned == [True]
        assert portal.call(lambda: asyncio.sleep(0, "still there")) == "still there"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        portal.close()


def test_a_failing_call_is_told_at_once() -> None:
    """An error of the call itself is raised at once."""
    portal = Portal("test")

    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        portal.call(fails)
    portal.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_while_the_loop_is_told(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt just before or after a call reaches the loop still cancels it and frees what it used."""
    portal = Portal("test")
    began: list[bool] = []
    ended: list[bool] = []
    tell = portal._loop.call_soon_threadsafe

    def interrupted(callback: Callable[..., object], *arguments: object) -> None:
        monkeypatch.undo()
        if moment == "after":
            tell(callback, *arguments)
        raise KeyboardInterrupt

    async def long() -> None:
        began.append(True)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    monkeypatch.setattr(portal._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        portal.call(long)
    assert began == ended
    left = portal.call(_others)
    assert not left
    portal.close()
    with pytest.raises(RuntimeError, match="closed"):
        portal.call(long)


async def _others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}
