"""The contract of blob stores, as suites to subclass: give them a fixture `store`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from corral.core.errors import BlobNotFound, Conflict, DigestMismatch, InvalidDigest, StorageError
from corral.core.models import Digest, digest_of
from corral.core.ports.storage import BlobInfo, BlobStore, BlobWriter, LocalBlobs

__all__ = ("BlobStoreContract", "LocalBlobStore", "LocalBlobsContract")

_MIB = 1024 * 1024


class LocalBlobStore(BlobStore, LocalBlobs, Protocol):
    """A blob store whose blobs are files."""


async def _joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def _stored(store: BlobStore, data: bytes) -> BlobInfo:
    writer = await store.begin(digest_of(data), len(data))
    try:
        await writer.write(0, data)
        return await writer.commit()
    finally:
        await writer.close()


async def _refused(writer: BlobWriter) -> None:
    with pytest.raises(StorageError):
        await writer.write(0, b"x")
    with pytest.raises(StorageError):
        await writer.commit()


class BlobStoreContract:
    """What every `BlobStore` promises. A subclass gives the fixture `store`: an empty one, fresh for each test."""

    @pytest.fixture
    def store(self) -> BlobStore:
        raise NotImplementedError("a subclass of BlobStoreContract gives the fixture store")

    def test_committed_bytes_come_back(self, store: BlobStore) -> None:
        """A committed blob is there under its digest, with its size and its bytes."""

        async def scenario() -> None:
            data = bytes(range(256)) * 17
            info = await _stored(store, data)
            assert info == BlobInfo(digest=digest_of(data), size_bytes=len(data))
            assert await store.stat(info.digest) == info
            assert await _joined(store.read(info.digest)) == data

        asyncio.run(scenario())

    def test_the_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        """Nothing at all can be stored, and read."""

        async def scenario() -> None:
            info = await _stored(store, b"")
            assert await store.stat(info.digest) == BlobInfo(digest=digest_of(b""), size_bytes=0)
            assert await _joined(store.read(info.digest)) == b""

        asyncio.run(scenario())

    def test_absent_blobs(self, store: BlobStore) -> None:
        """An absent blob has no stat, raises BlobNotFound at the first chunk, and deleting it is False."""

        async def scenario() -> None:
            digest = digest_of(b"nowhere")
            assert await store.stat(digest) is None
            with pytest.raises(BlobNotFound):
                await _joined(store.read(digest))
            assert await store.delete(digest) is False

        asyncio.run(scenario())

    def test_ranges_are_read_as_asked(self, store: BlobStore) -> None:
        """`start` is included, `end` is not, and an `end` beyond the blob means its end."""

        async def scenario() -> None:
            digest = (await _stored(store, b"0123456789")).digest
            assert await _joined(store.read(digest, 3)) == b"3456789"
            assert await _joined(store.read(digest, 3, 5)) == b"34"
            assert await _joined(store.read(digest, 8, 99)) == b"89"
            assert await _joined(store.read(digest, 4, 4)) == b""
            assert await _joined(store.read(digest, 10)) == b""

        asyncio.run(scenario())

    def test_chunks_are_bounded(self, store: BlobStore) -> None:
        """No chunk is longer than a mebibyte, or empty."""

        async def scenario() -> None:
            data = os.urandom(2 * _MIB + 5)
            digest = (await _stored(store, data)).digest
            sizes = [len(chunk) async for chunk in store.read(digest)]
            assert sum(sizes) == len(data)
            assert all(0 < size <= _MIB for size in sizes)

        asyncio.run(scenario())

    def test_nothing_is_visible_before_commit(self, store: BlobStore) -> None:
        """Bytes that are written and not committed are no blob: not in stat, not in list."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"abc"), 3)
            await writer.write(0, b"abc")
            assert await store.stat(digest_of(b"abc")) is None
            assert [info async for info in store.list()] == []
            await writer.abort()

        asyncio.run(scenario())

    def test_ranges_may_come_in_any_order(self, store: BlobStore) -> None:
        """Pieces written out of order, and twice, make the blob; `written` tells what is there."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"abcdefgh"), 8)
            await writer.write(6, b"gh")
            await writer.write(0, b"ab")
            assert list(writer.written) == [(0, 2), (6, 8)]
            await writer.write(1, b"bcdef")
            assert list(writer.written) == [(0, 8)]
            info = await writer.commit()
            assert await _joined(store.read(info.digest)) == b"abcdefgh"

        asyncio.run(scenario())

    def test_a_first_range_written_twice_counts_once(self, store: BlobStore) -> None:
        """Bytes that are replaced before commit are the ones that are hashed."""

        async def scenario() -> None:
            writer = await store.begin(None, 4)
            await writer.write(0, b"XXXX")
            await writer.write(0, b"good")
            assert (await writer.commit()).digest == digest_of(b"good")

        asyncio.run(scenario())

    def test_a_digest_is_computed_where_none_is_given(self, store: BlobStore) -> None:
        """Without a digest the blob gets the one of its bytes, with or without a size announced."""

        async def scenario() -> None:
            for size_bytes, data in ((None, b"unsized"), (5, b"sized")):
                writer = await store.begin(None, size_bytes)
                await writer.write(0, data)
                info = await writer.commit()
                assert info == BlobInfo(digest=digest_of(data), size_bytes=len(data))
                assert await store.stat(info.digest) == info

        asyncio.run(scenario())

    def test_wrong_bytes_are_refused_and_gone(self, store: BlobStore) -> None:
        """A digest that does not fit raises DigestMismatch, publishes nothing, and leaves nothing to resume."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"right"), 5)
            await writer.write(0, b"wrong")
            with pytest.raises(DigestMismatch, match=digest_of(b"right")):
                await writer.commit()
            await writer.close()
            for digest in (digest_of(b"right"), digest_of(b"wrong")):
                assert await store.stat(digest) is None
            again = await store.begin(digest_of(b"right"), 5)
            assert list(again.written) == []
            await again.abort()

        asyncio.run(scenario())

    def test_an_incomplete_blob_is_not_committed(self, store: BlobStore) -> None:
        """Missing bytes raise StorageError; the writer goes on from there."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"abcd"), 4)
            await writer.write(2, b"cd")
            with pytest.raises(StorageError):
                await writer.commit()
            await writer.write(0, b"ab")
            assert (await writer.commit()).size_bytes == 4

        asyncio.run(scenario())

    def test_bytes_outside_the_announced_size_are_refused(self, store: BlobStore) -> None:
        """Writing past the end, or before the start, raises StorageError and writes nothing."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"abcd"), 4)
            for offset, data in ((2, b"xyz"), (-1, b"x")):
                with pytest.raises(StorageError):
                    await writer.write(offset, data)
            assert list(writer.written) == []
            await writer.abort()

        asyncio.run(scenario())

    def test_a_closed_partial_is_resumed(self, store: BlobStore) -> None:
        """What `close` leaves is there for the next writer of the digest, also when it does not say the size."""

        async def scenario() -> None:
            digest = digest_of(b"abcdef")
            writer = await store.begin(digest, 6)
            await writer.write(0, b"abc")
            await writer.close()
            again = await store.begin(digest)
            assert list(again.written) == [(0, 3)]
            await again.write(3, b"def")
            assert await again.commit() == BlobInfo(digest=digest, size_bytes=6)

        asyncio.run(scenario())

    def test_an_aborted_partial_is_gone(self, store: BlobStore) -> None:
        """After `abort` the next writer begins at nothing; a second `abort` does nothing."""

        async def scenario() -> None:
            digest = digest_of(b"abcdef")
            writer = await store.begin(digest, 6)
            await writer.write(0, b"abc")
            await writer.abort()
            await writer.abort()
            again = await store.begin(digest, 6)
            assert list(again.written) == []
            await again.abort()

        asyncio.run(scenario())

    def test_another_size_begins_anew(self, store: BlobStore) -> None:
        """A partial that was announced with another size is not trusted."""

        async def scenario() -> None:
            digest = digest_of(b"abcdef")
            writer = await store.begin(digest, 4)
            await writer.write(0, b"abcd")
            await writer.close()
            again = await store.begin(digest, 6)
            assert list(again.written) == []
            await again.abort()

        asyncio.run(scenario())

    def test_one_writer_for_a_digest_at_a_time(self, store: BlobStore) -> None:
        """A second writer of a digest that is being written gets Conflict; of another digest it does not."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"one"), 3)
            with pytest.raises(Conflict):
                await store.begin(digest_of(b"one"), 3)
            other = await store.begin(digest_of(b"two"), 3)
            await other.abort()
            await writer.close()
            again = await store.begin(digest_of(b"one"), 3)
            await again.abort()

        asyncio.run(scenario())

    def test_an_ended_writer_writes_no_more(self, store: BlobStore) -> None:
        """After commit, abort or close, `write` and `commit` raise StorageError; abort leaves the blob alone."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"abc"), 3)
            await writer.write(0, b"abc")
            await writer.commit()
            await _refused(writer)
            await writer.abort()
            await writer.close()
            assert await store.stat(digest_of(b"abc")) is not None
            for end in ("abort", "close"):
                writer = await store.begin(digest_of(b"def"), 3)
                await getattr(writer, end)()
                await _refused(writer)

        asyncio.run(scenario())

    def test_a_blob_that_is_there_may_be_written_again(self, store: BlobStore) -> None:
        """Storing the same bytes twice is fine and changes nothing."""

        async def scenario() -> None:
            first = await _stored(store, b"twice")
            assert await _stored(store, b"twice") == first
            assert [info async for info in store.list()] == [first]

        asyncio.run(scenario())

    def test_many_tasks_write_many_blobs(self, store: BlobStore) -> None:
        """Writers of different blobs, and of the same bytes without a digest, do not disturb each other."""

        async def same() -> BlobInfo:
            writer = await store.begin(None, 4)
            await writer.write(0, b"same")
            return await writer.commit()

        async def scenario() -> None:
            texts = [f"blob {number}".encode() for number in range(20)]
            await asyncio.gather(*(_stored(store, text) for text in texts), *(same() for _ in range(20)))
            found = {info.digest async for info in store.list()}
            assert found == {digest_of(text) for text in (*texts, b"same")}

        asyncio.run(scenario())

    def test_deleted_blobs_are_gone(self, store: BlobStore) -> None:
        """Deleting answers True once; the others stay."""

        async def scenario() -> None:
            gone, kept = await _stored(store, b"gone"), await _stored(store, b"kept")
            assert await store.delete(gone.digest) is True
            assert await store.delete(gone.digest) is False
            assert await store.stat(gone.digest) is None
            assert [info async for info in store.list()] == [kept]

        asyncio.run(scenario())

    @pytest.mark.parametrize("hostile", ["sha256:../../../etc/passwd", "../x", "sha256:" + "g" * 64, "", "sha256:"])
    def test_what_is_no_digest_reaches_nothing(self, store: BlobStore, hostile: str) -> None:
        """A text that is no digest is absent or InvalidDigest, for reading, writing and deleting alike."""

        async def scenario() -> None:
            digest = Digest(hostile)
            try:
                assert await store.stat(digest) is None
                assert await store.delete(digest) is False
            except InvalidDigest:
                pass
            if hostile:
                with pytest.raises(InvalidDigest):
                    await store.begin(digest, 3)

        asyncio.run(scenario())


class LocalBlobsContract:
    """What a store that is `LocalBlobs` as well promises. A subclass gives the fixture `store`, empty and fresh."""

    @pytest.fixture
    def store(self) -> LocalBlobStore:
        raise NotImplementedError("a subclass of LocalBlobsContract gives the fixture store")

    def test_the_path_holds_the_blob(self, store: LocalBlobStore) -> None:
        """`path` is a file with exactly the blob's bytes."""

        async def scenario() -> None:
            info = await _stored(store, b"bytes to map")
            assert store.path(info.digest).read_bytes() == b"bytes to map"

        asyncio.run(scenario())

    def test_a_deleted_blob_has_no_file(self, store: LocalBlobStore) -> None:
        """After a deletion nothing is left at the path that was handed out."""

        async def scenario() -> None:
            info = await _stored(store, b"short life")
            path = store.path(info.digest)
            await store.delete(info.digest)
            assert not path.exists()
            assert not store.path(info.digest).exists()

        asyncio.run(scenario())

    def test_no_hostile_digest_becomes_a_path(self, store: LocalBlobStore) -> None:
        """What is no digest raises InvalidDigest."""
        with pytest.raises(InvalidDigest):
            store.path(Digest("sha256:../../secret"))

    def test_adopted_files_are_blobs_and_stay_as_they_are(self, store: LocalBlobStore, tmp_path: Path) -> None:
        """The file's bytes are a blob; its own bytes, mode and time are what they were."""

        async def scenario() -> None:
            file = tmp_path / "weights.bin"
            file.write_bytes(b"weights")
            before = file.stat()
            info = await store.adopt(file)
            assert info == BlobInfo(digest=digest_of(b"weights"), size_bytes=7)
            assert await _joined(store.read(info.digest)) == b"weights"
            after = file.stat()
            assert (after.st_mode, after.st_mtime_ns, after.st_ino) == (
                before.st_mode,
                before.st_mtime_ns,
                before.st_ino,
            )
            assert await store.adopt(file) == info

        asyncio.run(scenario())

    def test_a_deleted_adopted_blob_leaves_the_file(self, store: LocalBlobStore, tmp_path: Path) -> None:
        """Deleting the blob never touches the file it came from; the blob outlives the file as well."""

        async def scenario() -> None:
            file = tmp_path / "weights.bin"
            file.write_bytes(b"weights")
            info = await store.adopt(file)
            assert await store.delete(info.digest)
            assert file.read_bytes() == b"weights"
            await store.adopt(file)
            file.unlink()
            assert await _joined(store.read(info.digest)) == b"weights"

        asyncio.run(scenario())

    def test_a_file_changed_later_never_passes_for_the_blob(self, store: LocalBlobStore, tmp_path: Path) -> None:
        """After the file was edited in place, the blob has its old bytes, or is absent: never the new ones."""

        async def scenario() -> None:
            file = tmp_path / "weights.bin"
            file.write_bytes(b"weights")
            info = await store.adopt(file)
            with file.open("r+b") as edited:
                edited.write(b"WEIGHTS and more")
            if await store.stat(info.digest) is not None:
                assert await _joined(store.read(info.digest)) == b"weights"
            else:
                with pytest.raises(BlobNotFound):
                    await _joined(store.read(info.digest))
            changed = await store.adopt(file)
            assert await _joined(store.read(changed.digest)) == b"WEIGHTS and more"

        asyncio.run(scenario())

    def test_what_is_no_file_is_not_adopted(self, store: LocalBlobStore, tmp_path: Path) -> None:
        """A folder, and a path where nothing is, raise StorageError."""

        async def scenario() -> None:
            for path in (tmp_path, tmp_path / "absent"):
                with pytest.raises(StorageError):
                    await store.adopt(path)

        asyncio.run(scenario())
