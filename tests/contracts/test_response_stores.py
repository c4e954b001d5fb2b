"""Stores of responses: what all of them promise, and what those in files promise besides."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.stores.memory_responses import MemoryResponses
from corral.adapters.stores.response_files import ResponseFiles
from corral.core.errors import StorageError
from corral.core.ports.responses import KeptResponse, ResponseStore


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now_s


def response(id: str, owner: str = "ada", size_bytes: int = 10) -> KeptResponse:
    return KeptResponse(id=id, owner=owner, reply=b'{"id":1}', input_items=b"x" * (size_bytes - 8))


@pytest.fixture
def clock() -> Clock:
    return Clock()


Make = Callable[..., ResponseStore]


@pytest.fixture(params=["memory", "files"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Make:
    """Makes a store of the kind, with a count of three and ten seconds unless the test says otherwise."""

    def made(**limits: Any) -> ResponseStore:
        given = {"max_count": 3, "max_bytes": 1 << 20, "ttl_s": 10.0, "clock_s": clock, **limits}
        return MemoryResponses(**given) if request.param == "memory" else ResponseFiles(tmp_path / "r", **given)

    return made


class TestEveryStore:
    """What both stores promise."""

    def test_a_response_is_found_by_its_owner_alone(self, make: Make) -> None:
        """What was put comes back whole; nobody else sees it, nor deletes it."""

        async def run() -> None:
            store = make()
            assert await store.get("ada", "r1") is None
            assert await store.put(response("r1"))
            assert await store.get("ada", "r1") == response("r1")
            assert await store.get("bob", "r1") is None
            assert not await store.delete("bob", "r1")
            assert await store.put(response("r1", "bob"))
            assert await store.delete("ada", "r1")
            assert not await store.delete("ada", "r1")
            assert await store.get("ada", "r1") is None
            assert await store.get("bob", "r1") == response("r1", "bob")

        asyncio.run(run())

    def test_a_later_one_replaces_an_earlier_one(self, make: Make) -> None:
        """One id is one response, and counts once."""

        async def run() -> None:
            store = make()
            for size_bytes in (20, 30, 40, 50):
                assert await store.put(response("r1", size_bytes=size_bytes))
            assert await store.put(response("r2"))
            assert await store.get("ada", "r1") == response("r1", size_bytes=50)
            assert await store.get("ada", "r2") is not None

        asyncio.run(run())

    def test_those_used_least_recently_leave_first(self, make: Make, clock: Clock) -> None:
        """Asking for a response is a use of it."""

        async def run() -> None:
            store = make()
            for id in ("r1", "r2", "r3"):
                await store.put(response(id))
                clock.now_s += 1
            assert await store.get("ada", "r1")
            clock.now_s += 1
            await store.put(response("r4"))
            kept = [id for id in ("r1", "r2", "r3", "r4") if await store.get("ada", id)]
            assert kept == ["r1", "r3", "r4"]

        asyncio.run(run())

    def test_the_size_is_bounded(self, make: Make, clock: Clock) -> None:
        """Older ones make room; one that is larger than everything is not kept, and takes nothing away."""

        async def run() -> None:
            store = make(max_count=100, max_bytes=100_000)
            for number in range(5):
                await store.put(response(f"r{number}", size_bytes=30_000))
                clock.now_s += 1
            kept = [number for number in range(5) if await store.get("ada", f"r{number}")]
            assert kept == [2, 3, 4]
            assert not await store.put(response("big", size_bytes=200_000))
            assert await store.get("ada", "big") is None
            assert [number for number in range(5) if await store.get("ada", f"r{number}")] == kept

        asyncio.run(run())

    def test_what_is_not_used_expires(self, make: Make, clock: Clock) -> None:
        """The time begins anew with every use."""

        async def run() -> None:
            store = make()
            await store.put(response("r1"))
            await store.put(response("r2"))
            clock.now_s += 9
            assert await store.get("ada", "r1")
            clock.now_s += 9
            assert await store.get("ada", "r1")
            assert await store.get("ada", "r2") is None
            clock.now_s += 11
            assert not await store.delete("ada", "r1")
            endless = make(ttl_s=float("inf"))
            await endless.put(response("r3"))
            clock.now_s += 1e9
            assert await endless.get("ada", "r3")

        asyncio.run(run())

    @pytest.mark.parametrize("id", ["../../etc/passwd", "/x", "", "\x00", "a" * 5000, "ü\ud800"])
    def test_any_text_may_be_an_id(self, make: Make, id: str) -> None:
        """Clients choose what they ask for: it is not there, whatever it is."""

        async def run() -> None:
            store = make()
            assert await store.get("ada", id) is None
            assert not await store.delete("ada", id)

        asyncio.run(run())


def files(folder: Path, clock: Clock, **limits: Any) -> ResponseFiles:
    return ResponseFiles(folder, **{"max_count": 10, "max_bytes": 1 << 20, "ttl_s": 10.0, "clock_s": clock, **limits})


def test_files_survive_a_restart(tmp_path: Path, clock: Clock) -> None:
    """Another process finds them; only the user can read them, and nothing else is left in the folder."""
    folder = tmp_path / "state" / "responses"
    asyncio.run(files(folder, clock).put(response("r1")))
    assert asyncio.run(files(folder, clock).get("ada", "r1")) == response("r1")
    assert folder.stat().st_mode & 0o777 == 0o700
    [file] = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data[:-3] + b"?" + data[-2:],
        lambda data: b"corral response 2\n" + data[18:],
        lambda data: os.urandom(300),
    ],
)
def test_a_damaged_file_is_a_miss(tmp_path: Path, clock: Clock, damage: Callable[[bytes], bytes]) -> None:
    """What cannot be what was written does not exist, and is deleted."""
    asyncio.run(files(tmp_path, clock).put(response("r1")))
    [file] = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    os.utime(file, (clock.now_s, clock.now_s))
    assert asyncio.run(files(tmp_path, clock).get("ada", "r1")) is None
    assert not file.exists()


def test_a_file_of_somebody_else_is_a_miss(tmp_path: Path, clock: Clock) -> None:
    """A file that was renamed does not give its response to another owner."""
    asyncio.run(files(tmp_path, clock).put(response("r1")))
    [mine] = tmp_path.iterdir()
    asyncio.run(files(tmp_path, clock).put(response("r1", "bob")))
    [other] = [file for file in tmp_path.iterdir() if file != mine]
    os.replace(mine, other)
    assert asyncio.run(files(tmp_path, clock).get("bob", "r1")) is None


def test_what_is_no_file_is_a_miss(tmp_path: Path, clock: Clock) -> None:
    """A folder in a file's place, or a file in the folder's, is no reason to fail when a client asks."""
    store = files(tmp_path, clock)
    asyncio.run(store.put(response("r1")))
    [file] = tmp_path.iterdir()
    file.unlink()
    file.mkdir()
    os.utime(file, (clock.now_s, clock.now_s))
    assert asyncio.run(store.get("ada", "r1")) is None
    (tmp_path / "flat").write_text("")
    flat = files(tmp_path / "flat", clock)
    assert asyncio.run(flat.get("ada", "r1")) is None
    with pytest.raises(StorageError, match="cannot keep a response"):
        asyncio.run(flat.put(response("r1")))


def test_processes_share_the_bounds(tmp_path: Path, clock: Clock) -> None:
    """What another process has put counts, is used and expires as well; what it left half written goes."""

    async def run() -> None:
        one, two = files(tmp_path, clock, max_count=4), files(tmp_path, clock, max_count=4)
        abandoned = tmp_path / f"{'0' * 64}.{'1' * 32}.tmp"
        abandoned.write_text("half")
        os.utime(abandoned, (clock.now_s - 7200, clock.now_s - 7200))
        stranger = tmp_path / "notes.txt"
        stranger.write_text("mine")
        for number in range(8):
            await (one, two)[number % 2].put(response(f"r{number}"))
            clock.now_s += 1
        kept = [number for number in range(8) if await one.get("ada", f"r{number}")]
        assert kept[-1] == 7
        assert len(kept) <= 6  # each counts the other's when it next looks
        assert not abandoned.exists()
        assert stranger.exists()
        clock.now_s += 11
        await files(tmp_path, clock).put(response("last"))

    asyncio.run(run())
    assert len(list(tmp_path.iterdir())) == 2


def test_real_time(tmp_path: Path) -> None:
    """Without a test's clock, the time of day counts."""
    store = ResponseFiles(tmp_path, max_count=1, max_bytes=1 << 20, ttl_s=3600.0)
    asyncio.run(store.put(response("r1")))
    [file] = tmp_path.iterdir()
    os.utime(file, (time.time() - 7200, time.time() - 7200))
    assert asyncio.run(store.get("ada", "r1")) is None
