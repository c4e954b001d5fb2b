"""Blobs arrive in parts, whatever the line does, each once for all who want it, and continue where they stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.memory import MemoryBlobs
from corral.core.catalog.fetching import BlobFetcher, BlobOrigin
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.errors import DigestMismatch, OutOfSpace, RangesIgnored, SourceError, SourceStalled, SourceUnavailable
from corral.core.models.digests import Digest, digest_of
from corral.core.ports.blobs import BlobInfo
from corral.core.ports.sources import FetchProgress

DATA = bytes(range(256)) * 4
DIGEST = digest_of(DATA)
POLICY = TransferPolicy(part_bytes=100, parts_at_once=3, tries=3, pause_s=0, poll_s=0.001)


class Line:
    """A stream of `DATA` in pieces of 10 bytes. `asked` has the ranges that were asked for; `before` is awaited before
    each piece, and may raise or wait."""

    def __init__(self, before: Callable[[int], Awaitable[None]] | None = None, data: bytes = DATA) -> None:
        self.asked: list[tuple[int, int | None]] = []
        self.running = self.most_running = 0
        self.data = data
        self._before = before

    async def __call__(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        self.asked.append((start, end))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for offset in range(start, len(self.data) if end is None else end, 10):
                await asyncio.sleep(0)
                if self._before is not None:
                    await self._before(offset)
                yield self.data[offset : min(offset + 10, end or len(self.data))]
        finally:
            self.running -= 1


class Faults:
    """Raises `error` at each of these offsets, as often as they are listed."""

    def __init__(self, error: Exception, *offsets: int) -> None:
        self._error = error
        self.left = list(offsets)

    async def __call__(self, offset: int) -> None:
        if offset in self.left:
            self.left.remove(offset)
            raise self._error


class Told(list[FetchProgress]):
    """Progress as it was told."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def report(self, progress: FetchProgress) -> None:
        self.append(progress)
        self._more.set()

    @property
    def counts(self) -> list[int]:
        return [step.completed_bytes or 0 for step in self]

    async def until(self, count: int) -> None:
        """Waits for a count, or for any if it is -1."""
        while count not in (self.counts if count >= 0 else [-1] * len(self)):
            self._more.clear()
            await self._more.wait()


def origin(line: Any, place: str = "here") -> BlobOrigin:
    return BlobOrigin(place=place, stream=line, status="pulling it")


def fetcher(blobs: Any, **policy: Any) -> BlobFetcher:
    return BlobFetcher(blobs, TransferPolicy(**{name: getattr(POLICY, name) for name in _FIELDS} | policy))


_FIELDS = POLICY.__struct_fields__


async def fetch(line: Any, blobs: Any = None, told: Told | None = None, **policy: Any) -> Digest:
    report = (Told() if told is None else told).report
    return (await fetcher(blobs or MemoryBlobs(), **policy).fetch(origin(line), DIGEST, len(DATA), report)).digest


def test_a_blob_comes_in_parts() -> None:
    """In order, a few at a time; progress counts what is here, and ends with everything."""
    line, told = Line(), Told()
    assert asyncio.run(fetch(line, told=told)) == DIGEST
    assert line.asked == [(start, min(start + 100, len(DATA))) for start in range(0, len(DATA), 100)]
    assert line.most_running == 3
    assert told.counts == sorted(set(told.counts))
    assert (told.counts[0], told.counts[-1]) == (0, len(DATA))
    assert {(step.status, step.digest, step.total_bytes) for step in told} == {("pulling it", DIGEST, len(DATA))}


def test_what_is_there_is_not_fetched() -> None:
    """The gaps of an earlier attempt are filled."""

    async def scenario() -> None:
        blobs, line = MemoryBlobs(), Line()
        writer = await blobs.begin(DIGEST, len(DATA))
        for start, end in ((100, 250), (900, len(DATA))):
            await writer.write(start, DATA[start:end])
        await writer.close()
        told = Told()
        assert await fetch(line, blobs, told) == DIGEST
        assert line.asked == [(0, 100), *((start, min(start + 100, 900)) for start in range(250, 900, 100))]
        assert told.counts[0] == 150 + len(DATA) - 900
        assert await fetch(line, blobs, told) == DIGEST
        assert told.counts[-1] == len(DATA)
        assert len(line.asked) == 8

    asyncio.run(scenario())


def test_a_broken_line_is_taken_up_where_it_broke() -> None:
    """Each part on its own; what had arrived is not fetched again."""
    line = Line(Faults(SourceUnavailable("cut"), 50, 350, 360, 370, 380))
    assert asyncio.run(fetch(line)) == DIGEST
    parts = {(start, min(start + 100, len(DATA))) for start in range(0, len(DATA), 100)}
    again = [(50, 100), (350, 400), (360, 400), (370, 400), (380, 400)]
    assert sorted(set(line.asked) - parts) == again


def test_too_many_faults_end_it() -> None:
    """After so many without a byte in between, the last one is raised, and what has come is kept."""

    async def scenario() -> None:
        blobs, line = MemoryBlobs(), Line(Faults(SourceUnavailable("cut"), 50, 50, 50))
        with pytest.raises(SourceUnavailable, match="cut"):
            await fetch(line, blobs)
        assert (await blobs.partial(DIGEST))[0][0] == 0
        assert line.running == 0
        assert await fetch(line, blobs) == DIGEST

    asyncio.run(scenario())


def test_the_pauses_grow() -> None:
    """One second, then two, four, …: six tries take half a minute."""
    usual = TransferPolicy()
    assert [usual.pause_after_s(faults) for faults in range(1, usual.tries)] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("error", [SourceError("you may not"), OutOfSpace("full")])
def test_what_another_try_does_not_help(error: Exception) -> None:
    """Ends the blob at once, with all its parts."""
    line = Line(Faults(error, 150))
    with pytest.raises(type(error)):
        asyncio.run(fetch(line))
    assert 3 <= len(line.asked) <= 5
    assert line.running == 0


def test_a_full_disk_ends_it() -> None:
    """It is not tried again."""

    async def scenario() -> None:
        blobs, line = MemoryBlobs(), Line()
        begin = blobs.begin

        async def begin_full(*arguments: Any) -> Any:
            writer = await begin(*arguments)

            async def write(offset_bytes: int, data: bytes) -> None:
                raise OutOfSpace("no space left")

            writer.write = write  # type: ignore[method-assign]
            return writer

        blobs.begin = begin_full  # type: ignore[method-assign, assignment]
        with pytest.raises(OutOfSpace):
            await fetch(line, blobs)
        assert len(line.asked) <= 4

    asyncio.run(scenario())


@pytest.mark.parametrize("raised", [True, False], ids=["the registry says so", "nothing comes"])
def test_a_stalled_part_begins_again(raised: bool) -> None:
    """As often as it takes, and where it stopped."""
    stalls = Faults(SourceStalled("nothing came"), *[150] * 8)

    async def before(offset: int) -> None:
        try:
            await stalls(offset)
        except SourceStalled:
            if raised:
                raise
            await asyncio.Event().wait()

    line = Line(before)
    assert asyncio.run(fetch(line, stall_s=5 if raised else 0.02)) == DIGEST
    assert line.asked.count((150, 200)) == 8


def test_a_part_that_ends_too_early() -> None:
    """Counts as a fault if it brings nothing."""

    async def short(start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        if start < 500:
            yield DATA[start : min(start + 60, end or start)]

    with pytest.raises(SourceUnavailable, match="too early"):
        asyncio.run(fetch(short))


def test_a_registry_that_knows_no_ranges() -> None:
    """One stream from the beginning brings everything; what is there already stays."""

    async def scenario() -> None:
        blobs, asked = MemoryBlobs(), list[tuple[int, int | None]]()
        faults = Faults(SourceUnavailable("cut"), 600)
        whole = Line(faults)

        async def stream(start: int, end: int | None) -> AsyncGenerator[bytes, None]:
            asked.append((start, end))
            if start:
                raise RangesIgnored("it sends whole blobs")
            async for chunk in whole(start, end):
                yield chunk

        told = Told()
        assert await fetch(stream, blobs, told) == DIGEST
        assert asked[:3] == [(0, 100), (100, 200), (200, 300)]
        assert [start for start, _ in asked[-2:]] == [0, 0]
        assert len(asked) < 15
        assert told.counts == sorted(told.counts)

    asyncio.run(scenario())


def test_bytes_that_are_not_the_blob() -> None:
    """They are dropped; the next attempt fetches everything."""

    async def scenario() -> None:
        blobs = MemoryBlobs()
        with pytest.raises(DigestMismatch):
            await fetch(Line(data=bytes(len(DATA))), blobs)
        assert await blobs.partial(DIGEST) == ()
        assert await blobs.stat(DIGEST) is None
        assert await fetch(Line(), blobs) == DIGEST

    asyncio.run(scenario())


def test_several_share_a_download() -> None:
    """One stream for all; who comes late learns where it is, and nobody's progress goes backward."""

    async def scenario() -> None:
        gate, reached = asyncio.Event(), asyncio.Event()

        async def before(offset: int) -> None:
            if offset >= 500:
                reached.set()
                await gate.wait()

        shared, line = fetcher(MemoryBlobs()), Line(before)
        told = [Told(), Told(), Told()]

        def start(number: int) -> asyncio.Task[BlobInfo]:
            place = origin(line, f"place {number}")
            return asyncio.create_task(shared.fetch(place, DIGEST, len(DATA), told[number].report))

        first = [start(0), start(1)]
        await reached.wait()
        late = start(2)
        await told[2].until(-1)
        assert told[2].counts[0] in told[0].counts
        gate.set()
        assert [info.digest for info in await asyncio.gather(*first, late)] == [DIGEST] * 3
        assert len(line.asked) == 11
        for steps in told:
            assert steps.counts == sorted(steps.counts)
            assert steps.counts[-1] == len(DATA)

    asyncio.run(scenario())


def test_the_last_to_leave_ends_the_download() -> None:
    """One who leaves disturbs nobody, not even the one who began; after the last nothing runs."""

    async def scenario() -> None:
        gate, reached = asyncio.Event(), asyncio.Event()

        async def before(offset: int) -> None:
            if offset >= 200:
                reached.set()
                await gate.wait()

        blobs, line = MemoryBlobs(), Line(before)
        shared = fetcher(blobs)

        def start() -> asyncio.Task[BlobInfo]:
            return asyncio.create_task(shared.fetch(origin(line), DIGEST, len(DATA), lambda progress: None))

        async def leave(task: asyncio.Task[BlobInfo]) -> None:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        first, second = start(), start()
        await reached.wait()
        await leave(first)
        assert line.running > 0
        await leave(second)
        assert line.running == 0
        kept = await blobs.partial(DIGEST)
        assert kept
        line.asked.clear()
        gate.set()
        third, fourth = start(), start()
        await asyncio.sleep(0)
        await leave(third)
        assert (await fourth).digest == DIGEST
        assert line.asked[0][0] == kept[0][1]

    asyncio.run(scenario())


def test_a_download_may_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    """Its blob is free for the next one."""

    async def scenario() -> None:
        for steps in range(40):
            blobs = FilesystemBlobs(tmp_path / str(steps))
            task = asyncio.create_task(fetch(Line(), blobs))
            for _ in range(steps * steps // 8):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            writer = await blobs.begin(DIGEST, len(DATA))
            await writer.close()

    asyncio.run(scenario())


def test_what_fails_at_one_place_is_fetched_from_another() -> None:
    """Whoever shares the place gets its error; the others go on with what has come."""

    async def scenario() -> None:
        shared = fetcher(MemoryBlobs())
        broken, whole = Line(Faults(SourceError("gone"), 150)), Line()

        def start(line: Line, place: str) -> asyncio.Task[BlobInfo]:
            return asyncio.create_task(shared.fetch(origin(line, place), DIGEST, len(DATA), lambda progress: None))

        found = await asyncio.gather(
            start(broken, "a"), start(broken, "a"), start(whole, "b"), start(whole, "c"), return_exceptions=True
        )
        assert [type(one) for one in found] == [SourceError, SourceError, BlobInfo, BlobInfo]
        assert whole.asked[0][0] > 0
        assert len(whole.asked) <= 11

    asyncio.run(scenario())


def test_another_writer_is_waited_for(tmp_path: Path) -> None:
    """Its progress is told; if it gives up, its bytes are taken over, and if it finishes, nothing is fetched."""

    async def scenario(*, finishes: bool) -> None:
        root = tmp_path / str(finishes)
        theirs, line, told = FilesystemBlobs(root), Line(), Told()
        writer = await theirs.begin(DIGEST, len(DATA))
        await writer.write(0, DATA[:300])
        task = asyncio.create_task(fetch(line, FilesystemBlobs(root), told))
        await told.until(300)
        await writer.write(300, DATA[300:700])
        await told.until(700)
        assert line.asked == []
        if finishes:
            await writer.write(700, DATA[700:])
            await writer.commit()
        await writer.close()
        assert await task == DIGEST
        assert line.asked == ([] if finishes else [(700, 800), (800, 900), (900, 1000), (1000, len(DATA))])
        assert told.counts == sorted(told.counts)
        assert told.counts[-1] == len(DATA)

    asyncio.run(scenario(finishes=True))
    asyncio.run(scenario(finishes=False))


_DYING = """
import asyncio, sys
from pathlib import Path
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.core.models.digests import Digest, digest_of

async def main():
    data = bytes(range(256)) * 4
    writer = await FilesystemBlobs(Path(sys.argv[1])).begin(digest_of(data), len(data))
    await writer.write(0, data[:256])
    await writer.write(512, data[512:600])
    print("written", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_writer_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """Another process that waits for its blob goes on with the bytes that it wrote."""
    child = subprocess.Popen([sys.executable, "-c", _DYING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None

    async def scenario(line: Line) -> None:
        told = Told()
        task = asyncio.create_task(fetch(line, FilesystemBlobs(tmp_path), told))
        await told.until(344)
        os.kill(child.pid, signal.SIGKILL)
        assert await task == DIGEST

    try:
        assert child.stdout.readline() == "written\n"
        line = Line()
        asyncio.run(scenario(line))
        rest = [(start, min(start + 100, len(DATA))) for start in range(600, len(DATA), 100)]
        assert line.asked == [(256, 356), (356, 456), (456, 512), *rest]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_a_blob_without_a_size(digest: Digest | None) -> None:
    """Comes in one stream, to its end; with or without a digest."""

    async def scenario() -> None:
        line, told = Line(), Told()
        info = await fetcher(MemoryBlobs()).fetch(origin(line), digest, None, told.report)
        assert (info.digest, info.size_bytes) == (DIGEST, len(DATA))
        assert line.asked == [(0, None)]
        assert told.counts[-1] == len(DATA)

    asyncio.run(scenario())
