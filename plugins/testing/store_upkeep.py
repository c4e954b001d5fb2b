"""The contract of the upkeep of stores, as a suite to subclass: give it the fixtures `blobs` and `upkeep`."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from corral.core.models.digests import digest_of
from corral.core.ports.blobs import BlobStore
from corral.core.ports.upkeep import StoreUpkeep
from corral.plugins.testing.blob_writing import joined, store_bytes

__all__ = ("StoreUpkeepContract",)


class StoreUpkeepContract:
    """What every `StoreUpkeep` promises. `blobs` is an empty store, fresh for each test, and `upkeep` belongs to it."""

    @pytest.fixture
    def blobs(self) -> BlobStore:
        raise NotImplementedError("a subclass of StoreUpkeepContract gives the fixture blobs")

    @pytest.fixture
    def upkeep(self, blobs: BlobStore) -> StoreUpkeep:
        raise NotImplementedError("a subclass of StoreUpkeepContract gives the fixture upkeep")

    def test_blobs_are_no_leftovers(self, blobs: BlobStore, upkeep: StoreUpkeep) -> None:
        """Neither an empty store nor whole blobs have leftovers."""

        async def scenario() -> None:
            assert list(await upkeep.leftovers()) == []
            await store_bytes(blobs, b"whole")
            assert list(await upkeep.leftovers()) == []

        asyncio.run(scenario())

    def test_a_writer_at_work_leaves_nothing(self, blobs: BlobStore, upkeep: StoreUpkeep) -> None:
        """A partial blob that is being written is no leftover, and can be committed afterwards."""

        async def scenario() -> None:
            writer = await blobs.begin(digest_of(b"live"), 4)
            await writer.write(0, b"li")
            assert list(await upkeep.leftovers()) == []
            await writer.write(2, b"ve")
            assert (await writer.commit()).digest == digest_of(b"live")

        asyncio.run(scenario())

    def test_a_broken_blob_is_moved_aside(self, blobs: BlobStore, upkeep: StoreUpkeep) -> None:
        """It is no blob any more, its place is stated, it is a leftover of its own kind, and it can be stored anew."""

        async def scenario() -> None:
            info = await store_bytes(blobs, b"said to be broken")
            place = await upkeep.quarantine(info)
            assert place
            assert await blobs.stat(info.digest) is None
            assert [one.kind for one in await upkeep.leftovers()] == ["quarantined"]
            assert await upkeep.quarantine(info) is None
            await store_bytes(blobs, b"said to be broken")
            assert await joined(blobs.read(info.digest)) == b"said to be broken"

        asyncio.run(scenario())

    def test_another_blob_is_not_moved(self, blobs: BlobStore, upkeep: StoreUpkeep) -> None:
        """A blob that is not as described, since it was stored again, stays where it is."""

        async def scenario() -> None:
            info = await store_bytes(blobs, b"good")
            assert await upkeep.quarantine(msgspec.structs.replace(info, size_bytes=5)) is None
            assert await blobs.stat(info.digest) == info

        asyncio.run(scenario())

    def test_what_is_gone_cannot_be_discarded(self, blobs: BlobStore, upkeep: StoreUpkeep) -> None:
        """Discarding works once."""

        async def scenario() -> None:
            await upkeep.quarantine(await store_bytes(blobs, b"broken"))
            [leftover] = await upkeep.leftovers()
            assert await upkeep.discard(leftover)
            assert not await upkeep.discard(leftover)
            assert list(await upkeep.leftovers()) == []

        asyncio.run(scenario())
