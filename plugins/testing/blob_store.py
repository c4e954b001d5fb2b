"""The contract of blob stores, as a suite to subclass: give it a fixture `store`."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from corral.core.errors import BlobNotFound, InvalidDigest
from corral.core.models.digests import Digest, digest_of
from corral.core.ports.blobs import BlobInfo, BlobStore
from corral.plugins.testing.blob_writing import BlobWritingPromises, joined, store_bytes

__all__ = ("BlobStoreContract",)

_MIB = 1024 * 1024


class BlobStoreContract(BlobWritingPromises):
    """What every `BlobStore` promises. A subclass gives the fixture `store`: an empty one, fresh for each test."""

    @pytest.fixture
    def store(self) -> BlobStore:
        raise NotImplementedError("a subclass of BlobStoreContract gives the fixture store")

    def test_committed_bytes_come_back(self, store: BlobStore) -> None:
        """A committed blob is there under its digest, with its size and its bytes."""

        async def scenario() -> None:
            data = bytes(range(256)) * 17
            info = await store_bytes(store, data)
            assert (info.digest, info.size_bytes) == (digest_of(data), len(data))
            assert await store.stat(info.digest) == info
            assert await joined(store.read(info.digest)) == data

        asyncio.run(scenario())

    def test_the_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        """A blob without any bytes can be stored and read."""

        async def scenario() -> None:
            info = await store_bytes(store, b"")
            assert await store.stat(info.digest) == info
            assert (info.digest, info.size_bytes) == (digest_of(b""), 0)
            assert await joined(store.read(info.digest)) == b""

        asyncio.run(scenario())

    def test_absent_blobs(self, store: BlobStore) -> None:
        """An absent blob has no stat, raises BlobNotFound at the first chunk, and deleting it is False."""

        async def scenario() -> None:
            digest = digest_of(b"nowhere")
            assert await store.stat(digest) is None
            with pytest.raises(BlobNotFound):
                await joined(store.read(digest))
            assert await store.delete(digest) is False

        asyncio.run(scenario())

    def test_ranges_are_read_as_asked(self, store: BlobStore) -> None:
        """`start` is included, `end` is not, and an `end` beyond the blob means its end."""

        async def scenario() -> None:
            digest = (await store_bytes(store, b"0123456789")).digest
            assert await joined(store.read(digest, 3)) == b"3456789"
            assert await joined(store.read(digest, 3, 5)) == b"34"
            assert await joined(store.read(digest, 8, 99)) == b"89"
            assert await joined(store.read(digest, 4, 4)) == b""
            assert await joined(store.read(digest, 10)) == b""

        asyncio.run(scenario())

    def test_chunks_are_bounded(self, store: BlobStore) -> None:
        """No chunk is longer than a mebibyte, or empty."""

        async def scenario() -> None:
            data = os.urandom(2 * _MIB + 5)
            digest = (await store_bytes(store, data)).digest
            sizes = [len(chunk) async for chunk in store.read(digest)]
            assert sum(sizes) == len(data)
            assert all(0 < size <= _MIB for size in sizes)

        asyncio.run(scenario())

    def test_a_reader_may_stop_early(self, store: BlobStore) -> None:
        """A stream that is closed after its first chunk ends there, and the blob can be read again and deleted."""

        async def scenario() -> None:
            data = os.urandom(_MIB + 5)
            digest = (await store_bytes(store, data)).digest
            chunks = store.read(digest)
            assert data.startswith(await anext(chunks))
            await chunks.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(chunks)
            assert await joined(store.read(digest)) == data
            assert await store.delete(digest)

        asyncio.run(scenario())

    def test_nothing_is_visible_before_commit(self, store: BlobStore) -> None:
        """Bytes that are written and not committed are not a blob yet: neither stat nor list shows them."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"abc"), 3)
            await writer.write(0, b"abc")
            assert await store.stat(digest_of(b"abc")) is None
            assert [info async for info in store.list()] == []
            await writer.abort()

        asyncio.run(scenario())

    def test_a_blob_that_is_there_may_be_written_again(self, store: BlobStore) -> None:
        """Storing the same bytes twice is fine and changes nothing but the blob's time."""

        async def scenario() -> None:
            first = await store_bytes(store, b"twice")
            second = await store_bytes(store, b"twice")
            assert (second.digest, second.size_bytes) == (first.digest, first.size_bytes)
            assert [info async for info in store.list()] == [second]

        asyncio.run(scenario())

    def test_a_blob_has_the_time_at_which_it_was_stored_last(self, store: BlobStore) -> None:
        """`modified_at` is about now for a new blob, and never earlier after it was stored again; or it is None."""

        async def scenario() -> None:
            first = await store_bytes(store, b"timed")
            second = await store_bytes(store, b"timed")
            if first.modified_at is None or second.modified_at is None:
                assert first.modified_at is second.modified_at
            else:
                assert abs(first.modified_at - time.time()) < 3600
                assert second.modified_at >= first.modified_at

        asyncio.run(scenario())

    def test_many_tasks_write_many_blobs(self, store: BlobStore) -> None:
        """Writers of different blobs, and of the same bytes without a digest, do not disturb each other."""

        async def same() -> BlobInfo:
            writer = await store.begin(None, 4)
            await writer.write(0, b"same")
            return await writer.commit()

        async def scenario() -> None:
            texts = [f"blob {number}".encode() for number in range(20)]
            await asyncio.gather(*(store_bytes(store, text) for text in texts), *(same() for _ in range(20)))
            found = {info.digest async for info in store.list()}
            assert found == {digest_of(text) for text in (*texts, b"same")}

        asyncio.run(scenario())

    def test_deleted_blobs_are_gone(self, store: BlobStore) -> None:
        """Deleting a blob returns True once; other blobs remain."""

        async def scenario() -> None:
            gone, kept = await store_bytes(store, b"gone"), await store_bytes(store, b"kept")
            assert await store.delete(gone.digest) is True
            assert await store.delete(gone.digest) is False
            assert await store.stat(gone.digest) is None
            assert [info async for info in store.list()] == [kept]

        asyncio.run(scenario())

    def test_held_blobs_are_known(self, store: BlobStore) -> None:
        """What is held is in `held`, there yet or not, until it is released as often; what is no digest is refused."""

        async def scenario() -> None:
            assert await store.held() == frozenset()
            there, coming = (await store_bytes(store, b"there")).digest, digest_of(b"coming")
            for digest in (there, coming, there):
                await store.hold(digest)
            assert await store.held() == {there, coming}
            with pytest.raises(InvalidDigest):
                await store.hold(Digest("sha256:../../x"))
            assert await store.held() == {there, coming}
            await store.release(there)
            await store.release(coming)
            assert await store.held() == {there}  # it was held twice
            for _ in range(2):
                await store.release(there)
                assert await store.held() == frozenset()

        asyncio.run(scenario())

    @pytest.mark.parametrize("hostile", ["sha256:../../../etc/passwd", "../x", "sha256:" + "g" * 64, "", "sha256:"])
    def test_what_is_no_digest_reaches_nothing(self, store: BlobStore, hostile: str) -> None:
        """A text that is not a digest is absent or raises InvalidDigest, for reading, writing and deleting alike."""

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
