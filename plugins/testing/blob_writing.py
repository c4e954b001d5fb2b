"""What stores promise to those who write a blob piece by piece; part of the suite for blob stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from corral.core.errors import Conflict, DigestMismatch, StorageError
from corral.core.models.digests import digest_of
from corral.core.ports.blobs import BlobInfo, BlobStore, BlobWriter

__all__ = ("BlobWritingPromises", "joined", "store_bytes")


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    """All bytes of a stream."""
    return b"".join([chunk async for chunk in chunks])


async def store_bytes(store: BlobStore, data: bytes) -> BlobInfo:
    """Stores these bytes as a download would."""
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


class BlobWritingPromises:
    """What the `BlobWriter` of every `BlobStore` promises."""

    def test_ranges_may_come_in_any_order(self, store: BlobStore) -> None:
        """Pieces written out of order, and twice, make the blob; `written` shows which ranges exist."""

        async def scenario() -> None:
            writer = await store.begin(digest_of(b"abcdefgh"), 8)
            await writer.write(6, b"gh")
            await writer.write(0, b"ab")
            assert list(writer.written) == [(0, 2), (6, 8)]
            await writer.write(1, b"bcdef")
            assert list(writer.written) == [(0, 8)]
            info = await writer.commit()
            assert await joined(store.read(info.digest)) == b"abcdefgh"

        asyncio.run(scenario())

    def test_several_tasks_write_one_blob(self, store: BlobStore) -> None:
        """Ranges that are written at once all arrive."""

        async def scenario() -> None:
            data = bytes(range(256)) * 40
            writer = await store.begin(digest_of(data), len(data))
            pieces = range(0, len(data), 1000)
            await asyncio.gather(*(writer.write(start, data[start : start + 1000]) for start in pieces))
            assert list(writer.written) == [(0, len(data))]
            info = await writer.commit()
            assert await joined(store.read(info.digest)) == data

        asyncio.run(scenario())

    def test_a_partial_blob_can_be_watched(self, store: BlobStore) -> None:
        """`partial` has the ranges of a blob that is being written or was left; none once it is there or gone."""

        async def scenario() -> None:
            digest = digest_of(b"abcdef")
            assert list(await store.partial(digest)) == []
            writer = await store.begin(digest, 6)
            assert list(await store.partial(digest)) == []
            await writer.write(4, b"ef")
            await writer.write(0, b"ab")
            assert list(await store.partial(digest)) == [(0, 2), (4, 6)]
            await writer.close()
            assert list(await store.partial(digest)) == [(0, 2), (4, 6)]
            writer = await store.begin(digest, 6)
            await writer.write(2, b"cd")
            await writer.commit()
            assert list(await store.partial(digest)) == []
            other = await store.begin(digest_of(b"other"), 5)
            await other.write(0, b"ot")
            await other.abort()
            assert list(await store.partial(digest_of(b"other"))) == []

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
                assert (info.digest, info.size_bytes) == (digest_of(data), len(data))
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
        """The next writer of the digest continues after `close`, even if it does not know the size."""

        async def scenario() -> None:
            digest = digest_of(b"abcdef")
            writer = await store.begin(digest, 6)
            await writer.write(0, b"abc")
            await writer.close()
            again = await store.begin(digest)
            assert list(again.written) == [(0, 3)]
            await again.write(3, b"def")
            info = await again.commit()
            assert (info.digest, info.size_bytes) == (digest, 6)

        asyncio.run(scenario())

    def test_an_aborted_partial_is_gone(self, store: BlobStore) -> None:
        """After `abort`, the next writer starts from nothing; a second `abort` does nothing."""

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
        """A partial blob of another announced size is discarded."""

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
        """A second writer of a digest that is being written raises Conflict; a writer of another digest does not."""

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
