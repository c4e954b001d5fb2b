"""Blobs are hashed while they are written, in whatever order their bytes come."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.frontier_hash import FrontierHash
from corral.core.models.digests import digest_of

_MIB = 1024 * 1024
DATA = random.Random(7).randbytes(24 * _MIB)


def _wait(hashing: FrontierHash, hashed_bytes: int) -> None:
    deadline_s = time.monotonic() + 60
    while hashing._hashed_bytes < hashed_bytes:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_it_follows_the_file(tmp_path: Path) -> None:
    """What is complete is hashed before anybody asks for the digest; a small rest is not worth a thread."""
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    hashing = FrontierHash(path)
    hashing.advance(_MIB)
    assert hashing._thread is None
    hashing.advance(10 * _MIB)
    _wait(hashing, 10 * _MIB)
    hashing.advance(20 * _MIB)
    _wait(hashing, 20 * _MIB)
    assert hashing.digest(len(DATA), threading.Event()) == digest_of(DATA)
    assert [one for one in threading.enumerate() if one.name == "hash"] == []


def test_replaced_bytes_are_hashed_again(tmp_path: Path) -> None:
    """The digest is that of the bytes that are there in the end."""
    path = tmp_path / "blob"
    path.write_bytes(bytes(len(DATA)))
    hashing = FrontierHash(path)
    hashing.advance(16 * _MIB)
    _wait(hashing, 9 * _MIB)
    path.write_bytes(DATA)
    hashing.replaced(8 * _MIB)
    hashing.advance(len(DATA))
    assert hashing.digest(len(DATA), threading.Event()) == digest_of(DATA)


def test_closing_ends_it_early(tmp_path: Path) -> None:
    """Nothing reads the file afterwards."""
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    hashing = FrontierHash(path)
    hashing.advance(len(DATA))
    hashing.close()
    hashed_bytes = hashing._hashed_bytes
    hashing.advance(len(DATA))
    assert (hashing._hashed_bytes, [one for one in threading.enumerate() if one.name == "hash"]) == (hashed_bytes, [])


def test_a_large_blob_in_any_order(tmp_path: Path) -> None:
    """Several tasks write it, some of it twice; after a restart, what is there is hashed again."""

    async def scenario() -> None:
        blobs = FilesystemBlobs(tmp_path)
        offsets = list(range(0, len(DATA), _MIB))
        random.Random(8).shuffle(offsets)
        for some in (offsets[:14], [*offsets[10:], *offsets[:4]]):
            writer = await blobs.begin(digest_of(DATA), len(DATA))
            await asyncio.gather(*(writer.write(offset, DATA[offset : offset + _MIB]) for offset in some))
            if len(some) > 14:
                assert (await writer.commit()).digest == digest_of(DATA)
            await writer.close()
        assert await blobs.stat(digest_of(DATA)) is not None

    asyncio.run(scenario())
