"""Headers are read by ranges: of files, and of blobs through their store, local or remote."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from corral.adapters.formats.ggml import GgmlReader
from corral.adapters.formats.gguf import GgufReader
from corral.adapters.stores.memory import MemoryBlobs
from corral.core.catalog.blob_access import BlobAccess
from corral.core.catalog.inspection import WeightsInspector
from corral.core.errors import InvalidModelFile, StorageError
from corral.core.models.digests import Digest
from corral.core.random_access import RandomAccessFile, buffered
from corral.plugins.testing.ggml import ggml_bytes
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes


class RemoteBlobs(MemoryBlobs):
    """A store with remote blobs: it counts the bytes that are read, and fails once they reach `most`."""

    read_bytes = 0
    most = 1 << 62

    async def read(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        async for chunk in super().read(digest, start, end):
            self.read_bytes += len(chunk)
            if self.read_bytes > self.most:
                raise StorageError("the connection broke")
            yield chunk


async def put(blobs: MemoryBlobs, data: bytes) -> Digest:
    writer = await blobs.begin(None, len(data))
    await writer.write(0, data)
    return (await writer.commit()).digest


def test_a_remote_model_is_described_without_its_weights() -> None:
    """Of a file of 32 MiB, metadata, key-values and tensors together take no more than its first few MiB."""

    async def scenario() -> None:
        blobs = RemoteBlobs()
        size_bytes = 32 << 20
        digest = await put(blobs, gguf_bytes(SMALL_MODEL, (TensorEntry("w", (size_bytes // 4,), 0, size_bytes),)))
        inspector = WeightsInspector(blobs=blobs, readers=[GgmlReader(), GgufReader()])
        metadata = await inspector.metadata(digest)
        assert metadata is not None
        assert metadata.tensor_bytes == size_bytes
        assert (await inspector.describe(digest, verbose=True))["llama.block_count"] == 2
        assert await inspector.tensors(digest) == [("w", "F32", (size_bytes // 4,))]
        assert blobs.read_bytes < 4 << 20

    asyncio.run(scenario())


def test_a_ggml_model_is_read_through_its_store() -> None:
    """A format whose tensors are between its numbers is read by ranges as well."""

    async def scenario() -> None:
        blobs = RemoteBlobs()
        digest = await put(blobs, ggml_bytes("gpt2"))
        metadata = await WeightsInspector(blobs=blobs, readers=[GgmlReader()]).metadata(digest)
        assert metadata is not None
        assert metadata.architecture == "gpt2"

    asyncio.run(scenario())


def test_a_store_that_breaks_is_named() -> None:
    """What a store raises while a header is read reaches the caller, and is not blamed on the file."""

    async def scenario() -> None:
        blobs = RemoteBlobs()
        digest = await put(blobs, gguf_bytes())
        blobs.most = 100
        with pytest.raises(StorageError, match="the connection broke"):
            await WeightsInspector(blobs=blobs, readers=[GgufReader()]).metadata(digest)

    asyncio.run(scenario())


def test_a_bad_blob_is_named_by_its_digest() -> None:
    """The message says which blob is broken, where, and how."""

    async def scenario() -> None:
        blobs = RemoteBlobs()
        digest = await put(blobs, gguf_bytes()[:40])
        with pytest.raises(InvalidModelFile, match=rf"{digest}: at byte \d+: "):
            await WeightsInspector(blobs=blobs, readers=[GgufReader()]).metadata(digest)

    asyncio.run(scenario())


def test_nobody_reads_on_for_a_task_that_was_cancelled() -> None:
    """Once the context has ended, the thread's next read stops it."""

    async def scenario() -> None:
        blobs = RemoteBlobs()
        info = await blobs.stat(await put(blobs, bytes(1 << 20)))
        assert info is not None
        with BlobAccess(blobs, info) as source:
            assert len(await asyncio.to_thread(source.read, 0, 100)) == 100
        with pytest.raises(asyncio.CancelledError):
            await asyncio.to_thread(source.read, 1 << 19, 100)

    asyncio.run(scenario())


def test_the_ranges_of_files_and_blobs(tmp_path: Path) -> None:
    """Both return the bytes of a range, in any order, and fewer at the end of the file."""
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    ranges = [(0, 4), (299_990, 100), (5, 200_000), (3, 3), (300_000, 8), (150_000, 70_000)]

    async def scenario() -> list[bytes]:
        blobs = RemoteBlobs()
        info = await blobs.stat(await put(blobs, data))
        assert info is not None
        with BlobAccess(blobs, info) as source:
            assert source.size_bytes == len(data)
            return [await asyncio.to_thread(source.read, *one) for one in ranges]

    with RandomAccessFile(tmp_path / "file") as source:
        assert source.size_bytes == len(data)
        found = [source.read(*one) for one in ranges]
    assert found == [data[start : start + length] for start, length in ranges]
    assert asyncio.run(scenario()) == found


def test_a_file_object_over_ranges(tmp_path: Path) -> None:
    """Lines, seeks and reads to the end work as on an opened file."""
    (tmp_path / "file").write_bytes(b"one\ntwo\n" + bytes(100_000) + b"end")
    with RandomAccessFile(tmp_path / "file") as source:
        file = buffered(source)
        assert (file.readline(), file.readline()) == (b"one\n", b"two\n")
        assert file.seek(-3, os.SEEK_END) == 100_008
        assert file.read() == b"end"
        file.seek(4)
        file.seek(2, os.SEEK_CUR)
        assert file.read(2) == b"o\n"


@pytest.mark.parametrize("name", ["absent", "folder", "pipe"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    """A missing file, a folder, and a pipe that nobody writes to are errors that name the path."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidModelFile, match=name):
        RandomAccessFile(tmp_path / name)
