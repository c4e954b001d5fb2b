"""What the filesystem stores do beyond their contract: Ollama's layout, other processes, links, full disks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from corral.adapters.formats.gguf.reader import GgufReader
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.adoption import bring
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.holds import Holds
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.metadata_cache import FilesystemMetadataCache
from corral.adapters.system.file_locks import FileLock
from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import BlobNotFound, Conflict, StorageError
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import ModelMetadata
from corral.core.models.names import parse_name
from corral.core.ports.blobs import BlobInfo
from corral.plugins.testing.blob_writing import store_bytes
from corral.plugins.testing.gguf import gguf_bytes

posix = pytest.mark.skipif(sys.platform == "win32", reason="file modes and signals of POSIX")


async def _stored(store: FilesystemBlobs, data: bytes) -> BlobInfo:
    writer = await store.begin(digest_of(data), len(data))
    await writer.write(0, data)
    return await writer.commit()


async def _bytes(store: FilesystemBlobs, digest: Digest) -> bytes:
    return b"".join([chunk async for chunk in store.read(digest)])


def _files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def _same_file(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other)


def _child(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in another process, with `blobs` and `root` at hand."""
    head = """
        import asyncio, os, signal, sys
        from pathlib import Path
        from corral.adapters.stores.filesystem import FilesystemBlobs
        from corral.adapters.stores.manifests import FilesystemManifests
        from corral.core.models.digests import digest_of
        from corral.core.models.names import parse_name
        root = Path(sys.argv[1])
        blobs = FilesystemBlobs(root)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), str(root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@posix
def test_files_lie_where_ollama_looks_for_them(tmp_path: Path) -> None:
    """Names, places and modes are Ollama's, and outside ``.corral`` there is nothing else."""

    async def scenario() -> None:
        info = await _stored(FilesystemBlobs(tmp_path), b"weights")
        await FilesystemManifests(tmp_path).put(parse_name("hf.co/Ns/Model:Q4"), b"{}")
        assert {path for path in _files(tmp_path) if not path.startswith(".corral/")} == {
            f"blobs/sha256-{info.digest[7:]}",
            "manifests/hf.co/Ns/Model/Q4",
        }
        assert stat.S_IMODE((tmp_path / "blobs" / f"sha256-{info.digest[7:]}").stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "manifests/hf.co/Ns/Model/Q4").stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "manifests/hf.co/Ns").stat().st_mode) == 0o755

    previous = os.umask(0o022)
    try:
        asyncio.run(scenario())
    finally:
        os.umask(previous)


def test_a_folder_that_ollama_wrote_is_read_in_place(tmp_path: Path) -> None:
    """Manifests and blobs are found; Ollama's partial downloads, stray files and other depths are ignored and kept."""
    digest = digest_of(b"weights")
    files = {
        f"blobs/sha256-{digest[7:]}": b"weights",
        f"blobs/sha256-{digest[7:]}-partial": b"w",
        f"blobs/sha256-{digest[7:]}-partial-0": b"{}",
        "blobs/README": b"",
        "manifests/registry.ollama.ai/library/llama3/8b": b"{}",
        "manifests/registry.ollama.ai/library/llama3/.DS_Store": b"",
        "manifests/registry.ollama.ai/library/stray": b"",
        "manifests/registry.ollama.ai/library/deep/er/x": b"",
        "manifests/.DS_Store": b"",
    }
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def scenario() -> None:
        blobs, manifests = FilesystemBlobs(tmp_path), FilesystemManifests(tmp_path)
        assert [info async for info in blobs.list()] == [await blobs.stat(digest)]
        assert [stored.name.short async for stored in manifests.list(strict=True)] == ["llama3:8b"]
        assert await _bytes(blobs, digest) == b"weights"

    asyncio.run(scenario())
    assert _files(tmp_path) == set(files)


@posix
@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_a_store_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    """Reading needs no lock and creates no folder; writing reports missing permissions."""

    async def fill() -> BlobInfo:
        await FilesystemManifests(tmp_path).put(parse_name("m"), b"{}")
        return await _stored(FilesystemBlobs(tmp_path), b"weights")

    async def use(info: BlobInfo) -> None:
        assert await FilesystemBlobs(tmp_path).stat(info.digest) == info
        assert await FilesystemManifests(tmp_path).get(parse_name("m")) is not None
        with pytest.raises(StorageError, match="Permission"):
            await FilesystemBlobs(tmp_path).adopt(Path(__file__))

    info = asyncio.run(fill())
    folders = [path for path in (tmp_path, *tmp_path.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        asyncio.run(use(info))
    finally:
        for folder in folders:
            folder.chmod(0o755)


@posix
def test_a_killed_process_leaves_a_partial_that_another_resumes(tmp_path: Path) -> None:
    """After SIGKILL during a download, its ranges are known, its lock is free, and only the rest is fetched."""
    killed = _child(
        """
        async def main():
            writer = await blobs.begin(digest_of(b"abcdefgh"), 8)
            await writer.write(0, b"abc")
            await writer.write(6, b"gh")
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert killed.returncode == -9, killed.stderr

    async def scenario() -> None:
        store = FilesystemBlobs(tmp_path)
        writer = await store.begin(digest_of(b"abcdefgh"), 8)
        assert list(writer.written) == [(0, 3), (6, 8)]
        await writer.write(3, b"def")
        info = await writer.commit()
        assert await _bytes(store, info.digest) == b"abcdefgh"
        assert list((tmp_path / ".corral" / "partials").iterdir()) == []

    asyncio.run(scenario())


def test_a_digest_that_another_process_writes_is_a_conflict(tmp_path: Path) -> None:
    """The lock holds between processes, and ends with the writer."""
    code = """
        async def main():
            await blobs.begin(digest_of(b"abc"), 3)
        asyncio.run(main())
        """

    async def scenario() -> None:
        writer = await FilesystemBlobs(tmp_path).begin(digest_of(b"abc"), 3)
        assert "Conflict" in (await asyncio.to_thread(_child, code, tmp_path)).stderr
        await writer.close()
        assert (await asyncio.to_thread(_child, code, tmp_path)).returncode == 0

    asyncio.run(scenario())


def test_processes_that_put_and_delete_at_once_do_not_fail(tmp_path: Path) -> None:
    """Two processes that create and remove neighbours in one folder both succeed, every time."""
    code = """
        async def main():
            manifests = FilesystemManifests(root)
            for round in range(40):
                name = parse_name(f"shared:{os.getpid()}")
                await manifests.put(name, b"{}")
                assert await manifests.delete(name)
        asyncio.run(main())
        """

    async def scenario() -> None:
        for ended in await asyncio.gather(*(asyncio.to_thread(_child, code, tmp_path) for _ in range(2))):
            assert ended.returncode == 0, ended.stderr

    asyncio.run(scenario())


def test_a_store_where_no_folder_can_be(tmp_path: Path) -> None:
    """The error says where, and which setting to change."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="manifest") as caught:
        asyncio.run(FilesystemManifests(tmp_path / "file" / "models").put(parse_name("m"), b"{}"))
    assert str(tmp_path / "file") in caught.value.message
    assert caught.value.remedy == "set OLLAMA_MODELS to a folder that can be written to"


@posix
def test_a_full_disk_is_out_of_space(tmp_path: Path) -> None:
    """A write that fails because the disk is full raises OutOfSpace, and no partly written blob appears."""
    ended = _child(
        """
        import resource
        from corral.core.errors import OutOfSpace
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        async def main():
            writer = await blobs.begin(digest_of(bytes(9000)), 9000)
            try:
                await writer.write(0, bytes(9000))
            except OutOfSpace as error:
                print("OutOfSpace", error.remedy)
            await writer.abort()
            assert [info async for info in blobs.list()] == []
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("OutOfSpace free some space")
    assert list((tmp_path / ".corral" / "partials").iterdir()) == []


@posix
def test_a_copy_that_a_full_disk_cuts_is_no_blob(tmp_path: Path) -> None:
    """If the last bytes of a file do not fit where it must be copied to, it is not imported without them."""
    ended = _child(
        """
        import resource
        from corral.core.errors import OutOfSpace
        def refuse(*_, **__):
            raise OSError("no links here")
        os.link = refuse
        file = root / "weights"
        file.write_bytes(bytes(1_500_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))
        async def main():
            try:
                await blobs.adopt(file)
            except OutOfSpace:
                print("OutOfSpace")
            assert [info async for info in blobs.list()] == []
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "OutOfSpace\n"


def test_a_hold_that_could_not_be_noted_can_be_noted_later(tmp_path: Path) -> None:
    """A hold that failed to be written counts for nothing: the next one is written, and other processes see it."""
    folder = tmp_path / "holds"
    folder.write_bytes(b"in the way")
    holds = Holds(folder)
    with pytest.raises(StorageError):
        holds.add(digest_of(b"abc"))
    assert not holds.has(digest_of(b"abc"))
    folder.unlink()
    holds.add(digest_of(b"abc"))
    assert Holds(folder).all() == {digest_of(b"abc")}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_deleted_model_stays_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a deletion returns, the folder that had the manifest is on the disk, so that its blobs can go."""
    synced: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    async def scenario() -> None:
        manifests = FilesystemManifests(tmp_path)
        await manifests.put(parse_name("m"), b"{}")
        monkeypatch.setattr(os, "fsync", noted)
        assert await manifests.delete(parse_name("m"))
        assert str(tmp_path / "manifests/registry.ollama.ai/library/m") in synced

    asyncio.run(scenario())


def test_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    """Scratch files of dead processes and partials that are a week old are deleted; fresh ones and those in use
    stay."""
    partials = tmp_path / ".corral" / "partials"
    partials.mkdir(parents=True)
    fresh, old = digest_of(b"fresh")[7:], digest_of(b"old")[7:]
    for name in ("scratch-dead", "scratch-dead.lock", "scratch-alive", fresh, f"{fresh}.ranges", old, f"{old}.ranges"):
        (partials / name).write_bytes(b"x")
    long_ago = time.time() - 8 * 24 * 3600
    for name in (old, f"{old}.ranges"):
        os.utime(partials / name, (long_ago, long_ago))
    alive = FileLock(partials / "scratch-alive.lock")
    assert alive.try_acquire()

    async def scenario() -> None:
        writer = await FilesystemBlobs(tmp_path).begin()
        await writer.abort()

    asyncio.run(scenario())
    alive.release()
    assert {path.name for path in partials.iterdir()} == {
        "scratch-alive",
        "scratch-alive.lock",
        fresh,
        f"{fresh}.ranges",
    }


@posix
def test_wherever_a_process_is_killed_only_what_it_was_writing_is_lost(tmp_path: Path) -> None:
    """A journal cut off anywhere, as a killed process leaves it, still yields the ranges before the cut."""
    data = os.urandom(30)
    killed = _child(
        f"""
        async def main():
            writer = await blobs.begin({digest_of(data)!r}, 30)
            for start in range(0, 30, 3):
                await writer.write(start, {data!r}[start:start + 3])
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert killed.returncode == -9, killed.stderr
    [journal] = (tmp_path / ".corral" / "partials").glob("*.ranges")
    whole = journal.read_bytes()

    async def scenario() -> None:
        for length in range(whole.index(b"\n") + 1, len(whole) + 1):
            journal.write_bytes(whole[:length])
            writer = await FilesystemBlobs(tmp_path).begin(digest_of(data), 30)
            written = 3 * (whole[:length].count(b"\n") - 1)
            assert list(writer.written) == ([(0, written)] if written else [])
            await writer.close()
            if not written:  # nothing was known to be there: the next one would begin anew
                journal.with_suffix("").write_bytes(data)
        writer = await FilesystemBlobs(tmp_path).begin(digest_of(data), 30)
        assert (await writer.commit()).digest == digest_of(data)

    asyncio.run(scenario())


def test_a_partial_costs_no_file_for_each_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of pieces, in any order, add one line each; the journal is compacted rarely and stays small; another
    writer reads them all.
    """
    replaced: list[object] = []
    replace = os.replace

    def counted(source: Path, target: Path) -> None:
        replaced.append(target)
        replace(source, target)

    count = 10_000
    data = os.urandom(count)

    async def scenario() -> None:
        blobs = FilesystemBlobs(tmp_path)
        writer = await blobs.begin(digest_of(data), count)
        monkeypatch.setattr("os.replace", counted)
        for place in range(count // 2 - 1):
            for start in (place, place + count // 2):
                await writer.write(start, data[start : start + 1])
        assert len(replaced) == 2
        [journal] = (tmp_path / ".corral" / "partials").glob("*.ranges")
        assert journal.stat().st_size < 100_000
        await writer.close()
        writer = await blobs.begin(digest_of(data), count)
        assert list(writer.written) == [(0, count // 2 - 1), (count // 2, count - 1)]
        for start in (count // 2 - 1, count - 1):
            await writer.write(start, data[start : start + 1])
        assert (await writer.commit()).digest == digest_of(data)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"[6]",
        b"nonsense\n",
        b"[6]\n[0,99]\n",
        b"[6]\n[0,5]\n",
        b"[6]\n[-1,2]\n",
        b"[6]\n[0,2][2,3]\n",
        b"[7]\n[0,3]\n",
    ],
)
def test_a_partial_that_cannot_be_trusted_is_begun_anew(tmp_path: Path, note: bytes) -> None:
    """A note that is broken, or promises more bytes than the file has, resumes nothing."""
    partials = tmp_path / ".corral" / "partials"
    partials.mkdir(parents=True)
    digest = digest_of(b"abcdef")
    (partials / digest[7:]).write_bytes(b"abc")
    (partials / f"{digest[7:]}.ranges").write_bytes(note)

    async def scenario() -> None:
        writer = await FilesystemBlobs(tmp_path).begin(digest, 6)
        assert list(writer.written) == []
        await writer.write(0, b"abcdef")
        assert (await writer.commit()).digest == digest

    asyncio.run(scenario())


def test_an_adopted_file_takes_no_room_where_it_can_be_linked(tmp_path: Path) -> None:
    """On one file system the blob shares the file's bytes, or is a clone of them; both keep the right content."""
    file = tmp_path / "weights.gguf"
    file.write_bytes(os.urandom(100_000))

    async def scenario() -> None:
        store = FilesystemBlobs(tmp_path / "models")
        info = await store.adopt(file)
        assert store.path(info.digest).read_bytes() == file.read_bytes()
        linked = _same_file(file, store.path(info.digest))
        noted = list((tmp_path / "models" / ".corral" / "adopted").glob("*.json"))
        assert len(noted) == linked

    asyncio.run(scenario())


def test_a_touched_hard_link_is_hashed_again_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new mtime with the same bytes keeps the blob; changed bytes remove it, and the log says so."""
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"weights")

    async def scenario() -> None:
        store = FilesystemBlobs(tmp_path / "models")
        info = await store.adopt(file)
        if not _same_file(file, store.path(info.digest)):
            pytest.skip("this file system clones files")
        os.utime(file, (1, 1))
        found = await store.stat(info.digest)
        assert found is not None
        assert (found.digest, found.size_bytes) == (info.digest, info.size_bytes)
        file.write_bytes(b"WEIGHTS")
        with caplog.at_level(logging.WARNING):
            assert await store.stat(info.digest) is None
        assert "changed since it was imported" in caplog.text
        with pytest.raises(BlobNotFound):
            await _bytes(store, info.digest)
        assert [found async for found in store.list()] == []
        assert await FilesystemBlobs(tmp_path / "models").stat(info.digest) is None
        # The right bytes from elsewhere heal it, and do not touch the file.
        await _stored(store, b"weights")
        assert await _bytes(store, info.digest) == b"weights"
        assert file.read_bytes() == b"WEIGHTS"

    asyncio.run(scenario())


def test_a_file_on_another_disk_is_copied(tmp_path: Path) -> None:
    """If neither cloning nor linking is possible, the bytes are copied, and the copy belongs to the store."""
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    file = shared_memory / f"corral-test-{os.getpid()}"
    file.write_bytes(b"weights" * 300_000)

    async def scenario() -> None:
        store = FilesystemBlobs(tmp_path)
        info = await store.adopt(file)
        file.write_bytes(b"changed")
        assert await _bytes(store, info.digest) == b"weights" * 300_000

    try:
        asyncio.run(scenario())
    finally:
        file.unlink()


def test_a_link_is_adopted_as_what_it_points_to(tmp_path: Path) -> None:
    """A symbolic link, as in a Hugging Face cache, imports the file it points to, not itself."""
    (tmp_path / "real").write_bytes(b"weights")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real")

    async def scenario() -> None:
        store = FilesystemBlobs(tmp_path / "models")
        info = await store.adopt(tmp_path / "link.gguf")
        assert info.digest == digest_of(b"weights")
        assert not store.path(info.digest).is_symlink()

    asyncio.run(scenario())


@pytest.mark.parametrize("is_wanted", [False, True])
def test_an_import_that_is_cancelled_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_wanted: bool
) -> None:
    """Its weights are stored already: they go again, unless another process has made a model of the same meanwhile."""
    source = tmp_path / "model.gguf"
    source.write_bytes(gguf_bytes())
    is_stored, may_end = threading.Event(), threading.Event()

    def catalog(blobs: FilesystemBlobs) -> ModelCatalog:
        manifests, formats = FilesystemManifests(tmp_path / "store"), [OllamaManifestFormat()]
        return ModelCatalog(manifests=manifests, blobs=blobs, local=blobs, formats=formats, readers=[GgufReader()])

    async def scenario() -> None:
        store, other = FilesystemBlobs(tmp_path / "store"), FilesystemBlobs(tmp_path / "store")
        stored = store._stored

        def slow(digest: Digest, size_bytes: int) -> BlobInfo:
            is_stored.set()
            assert may_end.wait(60)
            return stored(digest, size_bytes)

        monkeypatch.setattr(store, "_stored", slow)
        task = asyncio.create_task(catalog(store).import_file(source))
        assert await asyncio.to_thread(is_stored.wait, 60)
        if is_wanted:
            await catalog(other).import_file(source, parse_name("other"))
        task.cancel()
        asyncio.get_running_loop().call_soon(may_end.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await other.stat(digest_of(source.read_bytes())) is not None) == is_wanted

    asyncio.run(scenario())


def test_an_adoption_that_fails_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked for it is told of the blob that is in the store."""

    def fail(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    async def scenario() -> None:
        file = tmp_path / "weights.bin"
        file.write_bytes(b"weights")
        blobs = FilesystemBlobs(tmp_path / "models")
        monkeypatch.setattr("corral.adapters.stores.filesystem.sync_folder", fail)
        told: list[Digest] = []
        with pytest.raises(StorageError):
            await blobs.adopt(file, on_stored=told.append)
        assert told == [digest_of(b"weights")]
        assert await blobs.stat(told[0]) is not None

    asyncio.run(scenario())


def test_a_cancelled_adoption_leaves_nothing(tmp_path: Path) -> None:
    """Cancelling while a big file is hashed takes effect at once, and leaves no lock, link or scratch file."""
    file = tmp_path / "big"
    with file.open("wb") as sparse:
        sparse.truncate(20 * 1024**3)

    async def scenario() -> None:
        store = FilesystemBlobs(tmp_path / "models")
        task = asyncio.create_task(store.adopt(file))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list((tmp_path / "models" / ".corral" / "partials").iterdir()) == []
        assert [info async for info in store.list()] == []

    asyncio.run(scenario())


@posix
def test_manifests_that_lead_out_of_the_store_are_not_read(tmp_path: Path) -> None:
    """A manifest, model folder or namespace that is a link to elsewhere is neither read nor written."""
    outside = tmp_path / "outside"
    (outside / "model").mkdir(parents=True)
    (outside / "model" / "tag").write_bytes(b"secret")
    library = tmp_path / "models" / "manifests" / "registry.ollama.ai" / "library"
    (library / "direct").mkdir(parents=True)
    (library / "direct" / "tag").symlink_to(outside / "model" / "tag")
    (library / "folder").symlink_to(outside / "model")
    (library.parent / "spaces").symlink_to(outside)

    async def scenario() -> None:
        store = FilesystemManifests(tmp_path / "models")
        for name in ("direct:tag", "folder:tag", "spaces/model:tag"):
            with pytest.raises(StorageError, match="out of the store"):
                await store.get(parse_name(name))
        for name in ("folder:new", "folder:tag", "spaces/new:tag"):
            with pytest.raises(StorageError, match="out of the store"):
                await store.put(parse_name(name), b"overwritten")
            with pytest.raises(StorageError, match="out of the store"):
                await store.delete(parse_name(name))
        assert [stored async for stored in store.list()] == []
        with pytest.raises(StorageError):
            [stored async for stored in store.list(strict=True)]
        await store.put(parse_name("direct:tag"), b"replaces the link")
        assert await store.delete(parse_name("direct:tag"))

    asyncio.run(scenario())
    assert [path.name for path in outside.rglob("*")] == ["model", "tag"]
    assert (outside / "model" / "tag").read_bytes() == b"secret"


@posix
def test_a_store_behind_a_link_works(tmp_path: Path) -> None:
    """The root, and ``manifests`` itself, may be links to another disk."""
    (tmp_path / "disk" / "manifests").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "manifests").symlink_to(tmp_path / "disk" / "manifests")
    (tmp_path / "alias").symlink_to(tmp_path / "models")

    async def scenario() -> None:
        store = FilesystemManifests(tmp_path / "alias")
        await store.put(parse_name("m"), b"{}")
        assert [stored.name.short async for stored in store.list(strict=True)] == ["m:latest"]

    asyncio.run(scenario())


def test_a_manifest_too_big_to_be_one_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its name raises StorageError; it is missing from lists, with one warning."""
    path = tmp_path / "manifests/registry.ollama.ai/library/huge/latest"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(5 * 1024 * 1024))

    async def scenario() -> None:
        store = FilesystemManifests(tmp_path)
        with pytest.raises(StorageError, match="larger than"):
            await store.get(parse_name("huge"))
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert [stored async for stored in store.list()] == []
        assert caplog.text.count("skipping a manifest") == 1

    asyncio.run(scenario())


def test_a_lock_that_is_never_given_back_is_a_conflict(tmp_path: Path) -> None:
    """Waiting ends with a message that names the lock."""
    holder = FileLock(tmp_path / "x.lock")
    assert holder.try_acquire()

    async def scenario() -> None:
        with pytest.raises(Conflict, match=r"x\.lock"):
            async with FileLock(tmp_path / "x.lock", timeout_s=0.05):
                pass

    asyncio.run(scenario())
    holder.release()
    assert FileLock(tmp_path / "x.lock").try_acquire()


def test_metadata_is_remembered_between_processes(tmp_path: Path) -> None:
    """What was stored is read back unchanged; a broken or older entry, or a folder that cannot be written, gives
    None."""
    metadata = ModelMetadata(
        format="gguf",
        architecture="llama",
        file_type="Q4_1",
        parameter_count=1,
        tensor_bytes=2,
        keys={"a": 1, "b": "x", "c": 1e-05, "d": True, "e": float("inf")},
    )
    digest = digest_of(b"weights")

    async def scenario() -> None:
        cache = FilesystemMetadataCache(tmp_path)
        assert await cache.get(digest) is None
        await cache.put(digest, metadata)
        assert await FilesystemMetadataCache(tmp_path).get(digest) == metadata
        for damage in (b"", b"\xc1", b"\x93\x00\x90\xc0"):
            next((tmp_path / ".corral" / "metadata").iterdir()).write_bytes(damage)
            assert await cache.get(digest) is None
        blocked = FilesystemMetadataCache(tmp_path / ".corral" / "metadata" / digest[7:])
        await blocked.put(digest, metadata)
        assert await blocked.get(digest) is None

    asyncio.run(scenario())


def _shown(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@posix
def test_a_folder_model_takes_no_space_twice(tmp_path: Path) -> None:
    """The files of a folder are the blobs themselves, under ``.corral``, where Ollama does not look."""

    async def scenario() -> None:
        blobs = FilesystemBlobs(tmp_path)
        info = await _stored(blobs, b"weights")
        folder = await blobs.folder(digest_of(b"key"), {"onnx/model.onnx": info.digest})
        assert folder.is_relative_to(tmp_path / ".corral")
        assert _same_file(folder / "onnx" / "model.onnx", blobs.path(info.digest))

    asyncio.run(scenario())


@posix
def test_where_no_hard_link_can_be_made_all_are_symbolic(tmp_path: Path) -> None:
    """With our own folder on another disk every file is a symbolic link, and the folder is kept as well."""
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")

    async def scenario(disk: Path) -> None:
        (tmp_path / ".corral").symlink_to(disk)
        (tmp_path / "blobs").mkdir()
        files = {name: digest_of(name.encode()) for name in ("model.onnx", "data/model.onnx.data")}
        blobs = FilesystemBlobs(tmp_path)
        for name, digest in files.items():
            blobs.path(digest).write_bytes(name.encode())
        folder = await blobs.folder(digest_of(b"key"), files)
        before = (folder / "model.onnx").lstat()
        assert _shown(folder) == {"model.onnx": b"model.onnx", "data/model.onnx.data": b"data/model.onnx.data"}
        assert all((folder / name).is_symlink() for name in files)
        assert await blobs.folder(digest_of(b"key"), files) == folder
        assert (folder / "model.onnx").lstat() == before

    with tempfile.TemporaryDirectory(dir=elsewhere) as disk:
        asyncio.run(scenario(Path(disk)))


@posix
def test_a_folder_follows_a_blob_that_was_changed_and_fetched_again(tmp_path: Path) -> None:
    """An adopted file edited later is noticed; once the blob is whole again the folder shows it, not the edit."""

    async def scenario() -> None:
        file = tmp_path / "model.onnx"
        file.write_bytes(b"weights")
        blobs = FilesystemBlobs(tmp_path / "models")
        files = {"model.onnx": (await blobs.adopt(file)).digest}
        await blobs.folder(digest_of(b"key"), files)
        with file.open("r+b") as edited:
            edited.write(b"EDITED!")
        with pytest.raises(BlobNotFound):
            await blobs.folder(digest_of(b"key"), files)
        await _stored(blobs, b"weights")
        assert _shown(await blobs.folder(digest_of(b"key"), files)) == {"model.onnx": b"weights"}

    if _reflinks(tmp_path):
        pytest.skip("this file system copies on write, so that an edit reaches no blob")
    asyncio.run(scenario())


def _reflinks(folder: Path) -> bool:
    (folder / "a").write_bytes(b"a")
    return not bring(folder / "a", folder / "b", threading.Event())


def test_folders_of_blobs_that_an_ollama_deleted_are_swept(tmp_path: Path) -> None:
    """A blob that was deleted by another program takes no space through a link: its folder is removed when another
    is made."""

    async def scenario() -> None:
        blobs = FilesystemBlobs(tmp_path)
        gone, stays = await _stored(blobs, b"gone"), await _stored(blobs, b"stays")
        stale = await blobs.folder(digest_of(b"1"), {"a": gone.digest, "b": stays.digest})
        kept = await blobs.folder(digest_of(b"2"), {"a": stays.digest})
        blobs.path(gone.digest).unlink()
        await blobs.folder(digest_of(b"3"), {"a": stays.digest})
        assert not stale.exists()
        assert _shown(kept) == {"a": b"stays"}

    asyncio.run(scenario())


@posix
def test_scratch_of_a_killed_process_is_swept_and_a_live_one_is_not(tmp_path: Path) -> None:
    """What a dead process left is deleted when the next scratch folder is made; folders in use stay."""

    async def scenario() -> None:
        async with FilesystemBlobs(tmp_path).scratch() as mine:
            (mine / "half").write_bytes(b"half made")
            died = _child(
                """
                async def main():
                    async with blobs.scratch() as folder:
                        (folder / "left").write_bytes(b"left behind")
                        os.kill(os.getpid(), signal.SIGKILL)
                asyncio.run(main())
                """,
                tmp_path,
            )
            assert died.returncode == -signal.SIGKILL
            assert any(path.endswith("/left") for path in _files(tmp_path))
            async with FilesystemBlobs(tmp_path).scratch():
                assert not any(path.endswith("/left") for path in _files(tmp_path))
                assert (mine / "half").exists()
        assert not list((tmp_path / ".corral" / "work").iterdir())

    asyncio.run(scenario())


@posix
def test_a_file_in_use_outlives_its_blob_beside_other_processes(tmp_path: Path) -> None:
    """If another process deletes the blob, its file stays while in use, without a second copy. What a killed
    process held is deleted when the next file is opened.
    """

    async def scenario() -> None:
        blobs = FilesystemBlobs(tmp_path)
        info = await store_bytes(blobs, b"weights")
        async with blobs.local(info.digest) as path:
            assert _same_file(path, blobs.path(info.digest))
            done = _child(f"asyncio.run(blobs.delete({info.digest!r}))", tmp_path)
            assert done.returncode == 0
            assert path.read_bytes() == b"weights"
        info = await store_bytes(blobs, b"other weights")
        died = _child(
            f"""
            async def main():
                async with blobs.local({info.digest!r}):
                    os.kill(os.getpid(), signal.SIGKILL)
            asyncio.run(main())
            """,
            tmp_path,
        )
        assert died.returncode == -signal.SIGKILL
        async with blobs.local(info.digest):
            pass
        assert not list((tmp_path / ".corral" / "pins").iterdir())

    asyncio.run(scenario())


def test_a_file_in_use_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file system has no links, or the store is read-only, the file is the blob itself."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    async def scenario() -> None:
        blobs = FilesystemBlobs(tmp_path)
        info = await store_bytes(blobs, b"weights")
        monkeypatch.setattr("os.link", refuse)
        async with blobs.local(info.digest) as path:
            assert path == blobs.path(info.digest)
        assert await blobs.stat(info.digest) == info

    asyncio.run(scenario())


def test_a_file_that_is_deleted_while_it_is_taken(tmp_path: Path) -> None:
    """It is reported as missing, and no path is given that leads nowhere."""

    class Racing(FilesystemBlobs):
        async def stat(self, digest: Digest) -> BlobInfo | None:
            found = await super().stat(digest)
            self.path(digest).unlink()
            return found

    async def scenario() -> None:
        blobs = Racing(tmp_path)
        info = await store_bytes(FilesystemBlobs(tmp_path), b"weights")
        with pytest.raises(BlobNotFound, match="deleted by another process"):
            async with blobs.local(info.digest):
                raise AssertionError("a path was given")
        assert not list((tmp_path / ".corral" / "pins").iterdir())

    asyncio.run(scenario())


@posix
def test_a_claim_of_a_killed_process_is_free(tmp_path: Path) -> None:
    """If a process dies while it creates a model, the next one can create it."""
    died = _child(
        """
        async def main():
            async with FilesystemManifests(root).claim(parse_name("m")):
                os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert died.returncode == -signal.SIGKILL

    async def scenario() -> None:
        async with asyncio.timeout(10), FilesystemManifests(tmp_path).claim(parse_name("m")):
            pass

    asyncio.run(scenario())


def test_folders_that_were_never_finished(tmp_path: Path) -> None:
    """What a killed process had begun is deleted when a folder is made a day later; younger files stay."""
    blobs = FilesystemBlobs(tmp_path)
    scratch = tmp_path / ".corral" / "tmp"
    for name in ("folder-old", "folder-young"):
        (scratch / name / "onnx").mkdir(parents=True)
        (scratch / name / "onnx" / "weights").write_bytes(b"half")
    (scratch / "manifest.old.tmp").write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    for name in ("folder-old", "manifest.old.tmp"):
        os.utime(scratch / name, (long_ago, long_ago))

    async def show() -> None:
        weights = await _stored(blobs, b"weights")
        await blobs.folder(digest_of(b"key"), {"model.onnx": weights.digest})

    asyncio.run(show())
    assert [path.name for path in scratch.iterdir()] == ["folder-young"]


@posix
@pytest.mark.parametrize("kind", ["pipe", "loop", "dangling"])
def test_what_is_no_manifest_is_replaced(tmp_path: Path, kind: str) -> None:
    """A model can be stored over something that is not a readable manifest; nothing is reported as replaced."""
    path = tmp_path / "manifests/registry.ollama.ai/library/m/latest"
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("latest" if kind == "loop" else "nowhere")

    async def scenario() -> None:
        async with asyncio.timeout(10):
            put = await FilesystemManifests(tmp_path).put(parse_name("m"), b"{}")
        assert (put.data, put.replaced) == (b"{}", None)

    asyncio.run(scenario())
    assert not path.is_symlink()
    assert path.read_bytes() == b"{}"


@posix
def test_a_lock_that_is_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    """Anything in place of a lock file is opened without blocking."""
    (tmp_path / ".corral").mkdir()
    os.mkfifo(tmp_path / ".corral" / "manifests.lock")

    async def scenario() -> None:
        async with asyncio.timeout(10):
            await FilesystemManifests(tmp_path).put(parse_name("m"), b"{}")

    asyncio.run(scenario())


def test_manifests_are_listed_in_bounded_memory(tmp_path: Path) -> None:
    """However large they are together, only a few megabytes of them are in memory at once."""
    for number in range(24):
        path = tmp_path / f"manifests/registry.ollama.ai/library/m{number}/latest"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(3 * 1024 * 1024))

    async def scenario() -> tuple[int, int]:
        tracemalloc.start()
        count = 0
        async for _ in FilesystemManifests(tmp_path).list():
            count += 1
        return count, tracemalloc.get_traced_memory()[1]

    count, peak_bytes = asyncio.run(scenario())
    tracemalloc.stop()
    assert count == 24
    assert peak_bytes < 30 * 1024 * 1024
