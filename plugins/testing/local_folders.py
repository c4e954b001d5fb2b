"""What stores promise about folders of blobs; part of the suite for stores whose blobs are files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import pytest

from corral.core.errors import BlobNotFound, StorageError
from corral.core.models.digests import digest_of
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.plugins.testing.blob_writing import joined, store_bytes

__all__ = ("LocalBlobStore", "LocalFolderPromises")

KEY = digest_of(b"a manifest")


def _shown(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class LocalBlobStore(BlobStore, LocalBlobs, Protocol):
    """A blob store whose blobs are files."""


class LocalFolderPromises:
    """What a store promises about the folders that it creates from blobs."""

    def test_a_folder_shows_blobs_by_their_paths(self, store: LocalBlobStore) -> None:
        """Every blob is at its relative path, and one key is one folder."""

        async def scenario() -> None:
            files = {path: (await store_bytes(store, path.encode())).digest for path in ("model.onnx", "a/b/data.bin")}
            folder = await store.folder(KEY, files)
            assert _shown(folder) == {"model.onnx": b"model.onnx", "a/b/data.bin": b"a/b/data.bin"}
            assert await store.folder(KEY, files) == folder
            assert await store.folder(digest_of(b"another key"), files) != folder

        asyncio.run(scenario())

    def test_one_blob_may_stand_under_two_paths(self, store: LocalBlobStore) -> None:
        """Two files with the same content are two files in the folder."""

        async def scenario() -> None:
            digest = (await store_bytes(store, b"{}")).digest
            folder = await store.folder(KEY, {"config.json": digest, "tokenizer.json": digest})
            assert _shown(folder) == {"config.json": b"{}", "tokenizer.json": b"{}"}

        asyncio.run(scenario())

    def test_a_folder_may_hold_blobs_of_another_store(self, store: LocalBlobStore, tmp_path: Path) -> None:
        """A blob that the store lacks is shown from the file that the caller gives; that file stays as it is."""

        async def scenario() -> None:
            own, other = (await store_bytes(store, b"own")).digest, digest_of(b"another store's")
            file = tmp_path / "another-store" / "blob"
            file.parent.mkdir()
            file.write_bytes(b"another store's")
            folder = await store.folder(KEY, {"own": own, "deep/other": other}, elsewhere={other: file})
            assert _shown(folder) == {"own": b"own", "deep/other": b"another store's"}
            assert await store.stat(other) is None
            await store.drop_folder(KEY)
            assert file.read_bytes() == b"another store's"

        asyncio.run(scenario())

    def test_files_of_a_folder_are_all_of_one_kind(self, store: LocalBlobStore) -> None:
        """Either all files are links, or none is: engines refuse links out of a folder whose model is a real file."""

        async def scenario() -> None:
            files = {path: (await store_bytes(store, path.encode())).digest for path in ("model.onnx", "data.bin")}
            folder = await store.folder(KEY, files)
            assert len({path.is_symlink() for path in folder.iterdir()}) == 1

        asyncio.run(scenario())

    def test_a_folder_that_lost_a_file_is_made_whole(self, store: LocalBlobStore) -> None:
        """Files that someone deleted or replaced in the folder are restored by the next call."""

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
        """Tasks that request the same folder at once all find every file in it."""

        async def scenario() -> None:
            files = {path: (await store_bytes(store, path.encode())).digest for path in ("one", "two", "three/four")}

            async def look() -> dict[str, bytes]:
                return _shown(await store.folder(KEY, files))

            assert all(len(shown) == 3 for shown in await asyncio.gather(*(look() for _ in range(8))))

        asyncio.run(scenario())

    def test_a_folder_needs_all_its_blobs(self, store: LocalBlobStore) -> None:
        """An absent blob raises BlobNotFound, even if the folder was created before it was deleted."""

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
        """Absolute paths, ``..``, and paths that other systems read differently raise StorageError; nothing is made."""

        async def scenario() -> None:
            info = await store_bytes(store, b"bytes")
            with pytest.raises(StorageError):
                await store.folder(KEY, {"fine": info.digest, path: info.digest})

        asyncio.run(scenario())

    def test_paths_that_cannot_stand_together_are_refused(self, store: LocalBlobStore) -> None:
        """Paths that differ only in case, or of which one is a folder of another, raise StorageError."""

        async def scenario() -> None:
            info = await store_bytes(store, b"bytes")
            for paths in (("a", "A"), ("a", "a/b"), ("a/b", "a")):
                with pytest.raises(StorageError):
                    await store.folder(KEY, dict.fromkeys(paths, info.digest))

        asyncio.run(scenario())

    def test_a_dropped_folder_is_gone_and_its_blobs_are_not(self, store: LocalBlobStore) -> None:
        """`drop_folder` removes the whole folder and nothing from the store; it may be called twice."""

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
        """After an error inside, the folder is gone, and the error is raised."""

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
