"""The contract of blob stores whose blobs are files, as a suite to subclass: give it a fixture `store`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from corral.core.errors import BlobNotFound, InvalidDigest, StorageError
from corral.core.models.digests import Digest, digest_of
from corral.plugins.testing.blob_writing import joined, store_bytes
from corral.plugins.testing.local_folders import LocalBlobStore, LocalFolderPromises

__all__ = ("LocalBlobsContract",)


class LocalBlobsContract(LocalFolderPromises):
    """What a store promises that also implements `LocalBlobs`. Subclass it and provide the fixture `store`, empty."""

    @pytest.fixture
    def store(self) -> LocalBlobStore:
        raise NotImplementedError("a subclass of LocalBlobsContract gives the fixture store")

    def test_the_file_holds_the_blob(self, store: LocalBlobStore) -> None:
        """`local` gives a file with exactly the blob's bytes, to several at once; `path` shows where a blob is."""

        async def scenario() -> None:
            info = await store_bytes(store, b"bytes to map")
            async with store.local(info.digest) as one, store.local(info.digest) as other:
                assert one.read_bytes() == other.read_bytes() == b"bytes to map"
            assert store.path(info.digest).read_bytes() == b"bytes to map"
            assert await joined(store.read(info.digest)) == b"bytes to map"

        asyncio.run(scenario())

    def test_a_file_in_use_outlives_its_blob(self, store: LocalBlobStore) -> None:
        """A blob deleted while its file is in use is gone for everyone else, and its file is removed afterwards."""

        async def scenario() -> None:
            info = await store_bytes(store, b"short life")
            async with store.local(info.digest) as one:
                async with store.local(info.digest) as other:
                    assert await store.delete(info.digest)
                    assert await store.stat(info.digest) is None
                    assert other.read_bytes() == b"short life"
                assert one.read_bytes() == b"short life"
                with pytest.raises(BlobNotFound):
                    async with store.local(info.digest):
                        pass
            assert not one.exists()
            assert not other.exists()
            assert not store.path(info.digest).exists()

        asyncio.run(scenario())

    def test_a_blob_that_comes_again_is_not_lost(self, store: LocalBlobStore) -> None:
        """Deleted and stored again while its file is in use, the blob stays when the file is released."""

        async def scenario() -> None:
            info = await store_bytes(store, b"twice")
            async with store.local(info.digest):
                await store.delete(info.digest)
                await store_bytes(store, b"twice")
            async with store.local(info.digest) as path:
                assert path.read_bytes() == b"twice"

        asyncio.run(scenario())

    def test_an_absent_blob_has_no_file(self, store: LocalBlobStore) -> None:
        """It raises BlobNotFound before it returns any path."""

        async def scenario() -> None:
            with pytest.raises(BlobNotFound):
                async with store.local(digest_of(b"nobody stored this")):
                    pass

        asyncio.run(scenario())

    def test_a_deleted_blob_has_no_file(self, store: LocalBlobStore) -> None:
        """After a deletion, nothing is left at the path of the blob."""

        async def scenario() -> None:
            info = await store_bytes(store, b"short life")
            path = store.path(info.digest)
            await store.delete(info.digest)
            assert not path.exists()
            assert not store.path(info.digest).exists()

        asyncio.run(scenario())

    def test_no_hostile_digest_becomes_a_path(self, store: LocalBlobStore) -> None:
        """A text that is not a digest raises InvalidDigest."""
        with pytest.raises(InvalidDigest):
            store.path(Digest("sha256:../../secret"))

    def test_adopted_files_are_blobs_and_stay_as_they_are(self, store: LocalBlobStore, tmp_path: Path) -> None:
        """The file's bytes are a blob, whose digest is told; its own bytes, mode and time are what they were."""

        async def scenario() -> None:
            file = tmp_path / "weights.bin"
            file.write_bytes(b"weights")
            before = file.stat()
            told: list[Digest] = []
            info = await store.adopt(file, on_stored=told.append)
            assert (info.digest, info.size_bytes) == (digest_of(b"weights"), 7)
            assert told == [info.digest]
            assert await joined(store.read(info.digest)) == b"weights"
            after = file.stat()
            assert (after.st_mode, after.st_mtime_ns, after.st_ino) == (
                before.st_mode,
                before.st_mtime_ns,
                before.st_ino,
            )
            again = await store.adopt(file)
            assert (again.digest, again.size_bytes) == (info.digest, info.size_bytes)

        asyncio.run(scenario())

    def test_an_adopted_blob_is_as_old_as_its_adoption(self, store: LocalBlobStore, tmp_path: Path) -> None:
        """Its time is not that of the file, which may be old; adopting the file again makes the blob new again."""

        async def scenario() -> None:
            file = tmp_path / "weights.bin"
            file.write_bytes(b"weights")
            os.utime(file, (1_000_000_000, 1_000_000_000))
            for _ in range(2):
                info = await store.adopt(file)
                assert info.modified_at is None or abs(info.modified_at - time.time()) < 3600
            assert file.stat().st_mtime == 1_000_000_000

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
            assert await joined(store.read(info.digest)) == b"weights"

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
                assert await joined(store.read(info.digest)) == b"weights"
            else:
                with pytest.raises(BlobNotFound):
                    await joined(store.read(info.digest))
            changed = await store.adopt(file)
            assert await joined(store.read(changed.digest)) == b"WEIGHTS and more"

        asyncio.run(scenario())

    def test_what_is_no_file_is_not_adopted(self, store: LocalBlobStore, tmp_path: Path) -> None:
        """A folder, and a path where nothing is, raise StorageError."""

        async def scenario() -> None:
            for path in (tmp_path, tmp_path / "absent"):
                with pytest.raises(StorageError):
                    await store.adopt(path)

        asyncio.run(scenario())
