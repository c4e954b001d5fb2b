"""The contract of blob stores whose blobs are files, as a suite to subclass: give it a fixture `store`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import pytest

from corral.core.errors import BlobNotFound, InvalidDigest, StorageError
from corral.core.models.digests import Digest, digest_of
from corral.core.ports.blobs import BlobInfo, BlobStore, LocalBlobs
from corral.plugins.testing.blob_store import joined, store_bytes

__all__ = ("LocalBlobStore", "LocalBlobsContract")


KEY = digest_of(b"a manifest")


def _shown(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class LocalBlobStore(BlobStore, LocalBlobs, Protocol):
    """A blob store whose blobs are files."""


class LocalBlobsContract:
    """What a store that is `LocalBlobs` as well promises. A subclass gives the fixture `store`, empty and fresh."""

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
        """A blob that is deleted while its file is in use is gone for everybody else, and its file goes afterwards."""

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
        """BlobNotFound, before any path is handed out."""

        async def scenario() -> None:
            with pytest.raises(BlobNotFound):
                async with store.local(digest_of(b"nobody stored this")):
                    pass

        asyncio.run(scenario())

    def test_a_deleted_blob_has_no_file(self, store: LocalBlobStore) -> None:
        """After a deletion nothing is left where the blob was."""

        async def scenario() -> None:
            info = await store_bytes(store, b"short life")
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
            assert await joined(store.read(info.digest)) == b"weights"
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

    def test_a_folder_shows_blobs_by_their_paths(self, store: LocalBlobStore) -> None:
        """Every blob stands under its relative path, in folders where it has any; one key is one folder."""

        async def scenario() -> None:
            files = {path: (await store_bytes(store, path.encode())).digest for path in ("model.onnx", "a/b/data.bin")}
            folder = await store.folder(KEY, files)
            assert _shown(folder) == {"model.onnx": b"model.onnx", "a/b/data.bin": b"a/b/data.bin"}
            assert await store.folder(KEY, files) == folder
            assert await store.folder(digest_of(b"another key"), files) != folder

        asyncio.run(scenario())

    def test_one_blob_may_stand_under_two_paths(self, store: LocalBlobStore) -> None:
        """Two files of the same content are two files of the folder."""

        async def scenario() -> None:
            digest = (await store_bytes(store, b"{}")).digest
            folder = await store.folder(KEY, {"config.json": digest, "tokenizer.json": digest})
            assert _shown(folder) == {"config.json": b"{}", "tokenizer.json": b"{}"}

        asyncio.run(scenario())

    def test_files_of_a_folder_are_all_of_one_kind(self, store: LocalBlobStore) -> None:
        """All are links, or none is: an engine refuses data that is a link out of a folder whose model is none."""

        async def scenario() -> None:
            files = {path: (await store_bytes(store, path.encode())).digest for path in ("model.onnx", "data.bin")}
            folder = await store.folder(KEY, files)
            assert len({path.is_symlink() for path in folder.iterdir()}) == 1

        asyncio.run(scenario())

    def test_a_folder_that_lost_a_file_is_made_whole(self, store: LocalBlobStore) -> None:
        """What somebody deleted in the folder, or put in a file's place, is there again after the next call."""

        async def scenario() -> None:
            files = {path: (await store_bytes(store, path.encode())).digest for path in ("one", "two")}
            folder = await store.folder(KEY, files)
            (folder / "one").unlink()
            (folder / "two").unlink()
            (folder / "two").write_bytes(b"something else")
            folder = await store.folder(KEY, files)
            assert _shown(folder) == {"one": b"one", "two": b"two"}

        asyncio.run(scenario())

    def test_many_tasks_get_one_whole_folder(self, store: LocalBlobStore) -> None:
        """Tasks that ask for the same folder at once all find every file in it."""

        async def scenario() -> None:
            files = {path: (await store_bytes(store, path.encode())).digest for path in ("one", "two", "three/four")}

            async def look() -> dict[str, bytes]:
                return _shown(await store.folder(KEY, files))

            assert all(len(shown) == 3 for shown in await asyncio.gather(*(look() for _ in range(8))))

        asyncio.run(scenario())

    def test_a_folder_needs_all_its_blobs(self, store: LocalBlobStore) -> None:
        """One absent blob is BlobNotFound, also where the folder was made while it was there."""

        async def scenario() -> None:
            info = await store_bytes(store, b"here")
            with pytest.raises(BlobNotFound):
                await store.folder(KEY, {"here": info.digest, "absent": digest_of(b"absent")})
            await store.folder(KEY, {"here": info.digest})
            await store.delete(info.digest)
            with pytest.raises(BlobNotFound):
                await store.folder(KEY, {"here": info.digest})

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/etc/passwd",
            "../out",
            "a/../../out",
            "a//b",
            ".",
            "a/.",
            "a\\b",
            "a\0b",
            "C:x",
            "nul",
            "a/COM1.txt",
            "a.",
        ],
    )
    def test_no_path_leads_out_of_a_folder(self, store: LocalBlobStore, path: str) -> None:
        """Absolute paths, ``..``, and what some system reads differently raise StorageError, and nothing is made."""

        async def scenario() -> None:
            info = await store_bytes(store, b"bytes")
            with pytest.raises(StorageError):
                await store.folder(KEY, {"fine": info.digest, path: info.digest})

        asyncio.run(scenario())

    def test_paths_that_cannot_stand_together_are_refused(self, store: LocalBlobStore) -> None:
        """Paths that differ in case only, or where one is a folder of another, raise StorageError."""

        async def scenario() -> None:
            info = await store_bytes(store, b"bytes")
            for paths in (("a", "A"), ("a", "a/b"), ("a/b", "a")):
                with pytest.raises(StorageError):
                    await store.folder(KEY, dict.fromkeys(paths, info.digest))

        asyncio.run(scenario())

    def test_a_dropped_folder_is_gone_and_its_blobs_are_not(self, store: LocalBlobStore) -> None:
        """`drop_folder` leaves nothing of the folder and takes nothing from the store; twice is fine."""

        async def scenario() -> None:
            info = await store_bytes(store, b"bytes")
            await store.drop_folder(KEY)
            folder = await store.folder(KEY, {"deep/file": info.digest})
            await store.drop_folder(KEY)
            assert not folder.exists()
            assert await joined(store.read(info.digest)) == b"bytes"
            await store.drop_folder(KEY)
            assert _shown(await store.folder(KEY, {"deep/file": info.digest})) == {"deep/file": b"bytes"}

        asyncio.run(scenario())

    def test_a_scratch_folder_goes_with_its_context(self, store: LocalBlobStore) -> None:
        """It is empty and private; a file in it can be adopted, and the blob outlives the folder."""

        async def scenario() -> None:
            async with store.scratch() as one, store.scratch() as other:
                assert one != other
                assert not list(one.iterdir())
                (one / "deep").mkdir()
                (one / "deep" / "model.bin").write_bytes(b"converted")
                info = await store.adopt(one / "deep" / "model.bin")
            assert not one.exists()
            assert not other.exists()
            assert await joined(store.read(info.digest)) == b"converted"

        asyncio.run(scenario())

    def test_a_scratch_folder_goes_with_a_failure_too(self, store: LocalBlobStore) -> None:
        """An error inside leaves no folder behind, and is not swallowed."""

        async def scenario() -> None:
            left: list[Path] = []

            async def fail() -> None:
                async with store.scratch() as folder:
                    left.append(folder)
                    (folder / "half").write_bytes(b"made")
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await fail()
            assert not left[0].exists()

        asyncio.run(scenario())
