"""Lets a reader in a thread read ranges of a blob through its store, local or remote."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from corral.core.ports.blobs import BlobInfo, BlobStore

__all__ = ("BlobAccess",)

_WINDOW_BYTES = 64 * 1024


class BlobAccess:
    """The `RandomAccess` of a blob, used with ``with`` in the event loop, and read in a thread meanwhile.

    Small reads are served from a window. Raises what `BlobStore.read` raises, and `CancelledError` after the context
    has ended, when nothing waits for the thread any longer. `name` is for errors, by default the digest.
    """

    def __init__(self, blobs: BlobStore, info: BlobInfo, name: str = "") -> None:
        self.name = name or str(info.digest)
        self.size_bytes = info.size_bytes
        self._blobs = blobs
        self._digest = info.digest
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._start = 0
        self._window = b""

    def __enter__(self) -> BlobAccess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        end = min(offset_bytes + length_bytes, self.size_bytes)
        if end <= offset_bytes:
            return b""
        if offset_bytes < self._start or end > self._start + len(self._window):
            window_end = min(max(end, offset_bytes + _WINDOW_BYTES), self.size_bytes)
            if self._closed:
                raise asyncio.CancelledError
            self._window = asyncio.run_coroutine_threadsafe(self._fetch(offset_bytes, window_end), self._loop).result()
            self._start = offset_bytes
        return self._window[offset_bytes - self._start : end - self._start]

    async def _fetch(self, start: int, end: int) -> bytes:
        async with aclosing(self._blobs.read(self._digest, start, end)) as chunks:
            return b"".join([chunk async for chunk in chunks])
