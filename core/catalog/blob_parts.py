"""Downloads the missing bytes of a blob: in parts, several at a time, each tried again where it stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial

from corral.core.catalog.side_by_side import side_by_side
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.errors import RangesIgnored, SourceStalled, SourceUnavailable
from corral.core.ports.blobs import BlobWriter

__all__ = ("ByteStream", "PartsDownload")

_WRITE_BYTES = 1024 * 1024

ByteStream = Callable[[int, int | None], AsyncGenerator[bytes, None]]
"""Yields bytes from one offset up to another, or to the end. Any excess is cut off."""


class PartsDownload:
    """One blob on its way into `writer`, which the caller commits or closes. `stream` is cut into parts if `in_parts`.

    `arrived` gets the number of bytes that are here, each time it has changed.
    """

    def __init__(
        self,
        writer: BlobWriter,
        stream: ByteStream,
        size_bytes: int | None,
        *,
        policy: TransferPolicy,
        streams: asyncio.Semaphore,
        arrived: Callable[[int], None],
        in_parts: bool = True,
    ) -> None:
        self._writer = writer
        self._stream = stream
        self._size_bytes = size_bytes
        self._policy = policy
        self._streams = streams
        self._arrived = arrived
        self._in_parts = in_parts
        self._waiting_bytes = 0  # of all parts, to be written
        self._told_bytes = -1

    async def run(self) -> None:
        """Returns when nothing is missing. Bytes that arrived are written, whatever it raises.

        Raises `SourceError`, `OutOfSpace` and what else `stream` and `writer` raise.
        """
        self._tell()
        if self._size_bytes is None:
            await self._fetch(_frontier(self._writer.written), None)
            return
        part_bytes = self._policy.part_bytes if self._in_parts else self._size_bytes
        parts = _parts(self._writer.written, self._size_bytes, part_bytes)
        try:
            await side_by_side([partial(self._fetch, *part) for part in parts], self._policy.parts_at_once)
        except RangesIgnored:
            await self._fetch_whole(self._size_bytes)

    async def _fetch(self, start: int, end: int | None) -> None:
        """Fetches a range; without `end`, until the stream ends."""
        faults = 0
        while start != end:
            stopped_at = start
            try:
                async with self._streams:
                    start = await self._read(start, end)
                if end is None:
                    return
                if start == stopped_at:
                    raise SourceUnavailable("the blob ended too early")
            except SourceUnavailable as error:
                start = _end_of(self._writer.written, stopped_at)
                if end is not None and start >= end:
                    return
                faults = await self._pause(error, 0 if start > stopped_at else faults)

    async def _fetch_whole(self, size_bytes: int) -> None:
        """From a registry that sends every blob from its beginning: what is there already is skipped."""
        faults = 0
        while (known := _frontier(self._writer.written)) < size_bytes:
            try:
                async with self._streams:
                    await self._read(0, size_bytes, skip_to=known)
                if _frontier(self._writer.written) == known:
                    raise SourceUnavailable("the blob ended too early")
            except SourceUnavailable as error:
                faults = await self._pause(error, 0 if _frontier(self._writer.written) > known else faults)

    async def _pause(self, error: SourceUnavailable, faults: int) -> int:
        """Waits before the next try, and returns the number of faults. Raises `error` if there were too many."""
        if isinstance(error, SourceStalled):
            await asyncio.sleep(0 if isinstance(error.__cause__, TimeoutError) else self._policy.pause_s)
            return faults
        faults += 1
        if faults >= self._policy.tries:
            raise error
        await asyncio.sleep(self._policy.pause_after_s(faults))
        return faults

    async def _read(self, start: int, end: int | None, *, skip_to: int = 0) -> int:
        """Reads one stream up to its end, or to `end`, and writes what is not before `skip_to`. Returns where it ended.

        Raises `SourceStalled` if nothing arrives for too long.
        """
        waiting: list[bytes] = []
        waiting_bytes = 0
        offset = start  # of what waits to be written

        async def write() -> None:
            nonlocal waiting, waiting_bytes, offset
            data = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            self._waiting_bytes -= len(data)
            if data:
                await self._writer.write(offset, data)
                self._tell()
            offset += len(data)
            waiting, waiting_bytes = [], 0

        whole = end is None or end == self._size_bytes
        async with aclosing(self._stream(start, None if skip_to else end)) as chunks:
            try:
                while end is None or offset + waiting_bytes < end:
                    chunk = await self._next(chunks)
                    if chunk is None:
                        break
                    if end is not None and not whole:
                        chunk = chunk[: end - offset - waiting_bytes]
                    if offset < skip_to:
                        skipped = min(len(chunk), skip_to - offset)
                        offset, chunk = offset + skipped, chunk[skipped:]
                    waiting.append(chunk)
                    waiting_bytes += len(chunk)
                    self._waiting_bytes += len(chunk)
                    self._tell()
                    if waiting_bytes >= _WRITE_BYTES:
                        await write()
            finally:
                await write()
        return offset

    def _tell(self) -> None:
        here_bytes = sum(end - start for start, end in self._writer.written) + self._waiting_bytes
        if here_bytes > self._told_bytes:
            self._told_bytes = here_bytes
            self._arrived(here_bytes)

    async def _next(self, chunks: AsyncGenerator[bytes, None]) -> bytes | None:
        """None at the end of the stream."""
        try:
            async with asyncio.timeout(self._policy.stall_s):
                return await anext(chunks, None)
        except TimeoutError as error:
            raise SourceStalled(f"nothing arrived for {self._policy.stall_s:g} s") from error


def _parts(written: Sequence[tuple[int, int]], size_bytes: int, part_bytes: int) -> list[tuple[int, int]]:
    """The missing ranges, in pieces of at most `part_bytes`."""
    ends = [0, *(end for _, end in written)]
    starts = [*(start for start, _ in written), size_bytes]
    return [
        (start, min(start + part_bytes, gap_end))
        for gap_start, gap_end in zip(ends, starts, strict=True)
        for start in range(gap_start, gap_end, max(1, part_bytes))
    ]


def _frontier(written: Sequence[tuple[int, int]]) -> int:
    """How many bytes from the beginning are there."""
    return _end_of(written, 0)


def _end_of(written: Sequence[tuple[int, int]], offset: int) -> int:
    """Where the written range that contains or follows `offset` directly ends; `offset` if there is none."""
    return next((end for start, end in written if start <= offset <= end), offset)
