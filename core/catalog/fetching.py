"""Fetches blobs into the store concurrently; each continues where an earlier attempt stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from corral.core.models.digests import Digest
from corral.core.ports.blobs import BlobInfo, BlobStore
from corral.core.ports.sources import FetchProgress, OnProgress

__all__ = ("ByteStream", "fetch_blob", "side_by_side")

_AT_ONCE = 4

T = TypeVar("T")

ByteStream = Callable[[int, int | None], AsyncGenerator[bytes, None]]
"""Yields bytes from one offset up to another, or to the end. Any excess is cut off."""


async def side_by_side(jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """The results of all jobs in order. A few run at a time.

    If one fails, the others are cancelled and waited for; then its error is raised.
    """
    room = asyncio.Semaphore(_AT_ONCE)

    async def work(job: Callable[[], Awaitable[T]]) -> T:
        async with room:
            return await job()

    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(job)) for job in jobs]
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    if first is not None:  # raised out here, it keeps its own cause and does not get the group as its context
        raise first
    return [task.result() for task in tasks]


async def fetch_blob(
    blobs: BlobStore,
    stream: ByteStream,
    digest: Digest | None,
    size_bytes: int | None,
    status: str,
    on_progress: OnProgress,
) -> BlobInfo:
    """Fetches what earlier attempts have not stored; if this one fails, what arrived is kept for the next.

    `status` is the text of its progress. Raises `Conflict` if another task or process is fetching the same blob,
    `DigestMismatch`, `OutOfSpace`, and what `stream` raises.
    """
    writer = await blobs.begin(digest, size_bytes)
    try:
        arrived = True
        while arrived:
            start, end = _first_gap(writer.written, size_bytes)
            if start == end:
                break
            arrived = False
            async with aclosing(stream(start, end)) as chunks:
                async for chunk in chunks:
                    wanted = chunk if end in (None, size_bytes) else chunk[: end - start]
                    await writer.write(start, wanted)
                    start += len(wanted)
                    arrived = end is not None
                    on_progress(
                        FetchProgress(
                            status=status,
                            digest=digest,
                            total_bytes=size_bytes,
                            completed_bytes=sum(last - first for first, last in writer.written),
                        )
                    )
                    if start == end:
                        break
        return await writer.commit()
    finally:
        await writer.close()


def _first_gap(written: Sequence[tuple[int, int]], size_bytes: int | None) -> tuple[int, int | None]:
    """Start and end of the first missing range; they are equal if nothing is missing."""
    start = written[0][1] if written and written[0][0] == 0 else 0
    return start, next((first for first, _ in written if first > start), size_bytes)
