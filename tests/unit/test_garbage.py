"""What `corral gc` deletes and spares, and what `corral verify` finds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.adapters.stores.upkeep import FilesystemUpkeep
from corral.adapters.system.file_locks import FileLock
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.create_calls import CreateCall
from corral.core.catalog.garbage import GarbageCollector, GarbageReport
from corral.core.catalog.verifying import StoreVerifier, VerifyReport
from corral.core.errors import ModelNotFound, StorageError
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import Model, ModelFile
from corral.core.models.names import ModelName, parse_name
from corral.core.ports.blobs import BlobInfo
from corral.core.ports.sources import FetchProgress
from corral.core.specs.converters import DERIVED_HOST
from corral.plugins.settings.environment import read_environment
from corral.plugins.testing.blob_writing import store_bytes
from corral.plugins.testing.gguf import gguf_bytes

_HOUR_S = 3600.0


class Store:
    """A filesystem store, whose housekeeping lives `later_s` in the future."""

    def __init__(self, root: Path, later_s: float = 0.0, prune: bool = True) -> None:
        self.root = root
        self.own = root / ".corral"
        self.blobs = FilesystemBlobs(root)
        self.manifests = FilesystemManifests(root)
        self.upkeep = FilesystemUpkeep(root)
        self.later_s = later_s
        formats = [OllamaManifestFormat()]
        self.catalog = ModelCatalog(
            manifests=self.manifests,
            blobs=self.blobs,
            local=self.blobs,
            formats=formats,
            readers=[GgufReader()],
            prune=prune,
        )
        self.collector = GarbageCollector(
            manifests=self.manifests,
            blobs=self.blobs,
            local=self.blobs,
            upkeep=self.upkeep,
            now=lambda: time.time() + self.later_s,
        )
        self.verifier = StoreVerifier(manifests=self.manifests, blobs=self.blobs, formats=formats, upkeep=self.upkeep)

    async def model(self, name: str, **pairs: str) -> Digest:
        """Stores a model, and returns the digest of its weights."""
        info = await store_bytes(self.blobs, gguf_bytes({"general.architecture": "llama", **pairs}))
        file = ModelFile(role="weights", media_type="", digest=info.digest, size_bytes=info.size_bytes)
        await self.catalog.publish(parse_name(name), Model(format="gguf", files=(file,)))
        return info.digest

    async def derived(self, source: Digest, data: bytes) -> ModelName:
        info = await store_bytes(self.blobs, data)
        file = ModelFile(role="weights", media_type="", digest=info.digest, size_bytes=info.size_bytes)
        name = ModelName(host=DERIVED_HOST, namespace=source[7:], model="onnx", tag="x")
        manifest, texts = OllamaManifestFormat().write(name, Model(format="gguf", files=(file,)))
        for text in texts:
            await store_bytes(self.blobs, text)
        await self.manifests.put(name, manifest)
        return name

    async def verify(self, *names: str) -> VerifyReport:
        self.told: list[FetchProgress] = []
        return await self.verifier.verify([parse_name(name) for name in names], self.told.append)

    def files(self) -> set[str]:
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()}


def _kinds(report: GarbageReport) -> set[str]:
    return {garbage.kind for garbage in report.removed}


def test_what_no_model_names_goes_after_an_hour(tmp_path: Path) -> None:
    """A fresh blob without a model stays, and says why; an hour later it goes, and models stay whole."""

    async def scenario() -> None:
        store = Store(tmp_path)
        weights = await store.model("m")
        lone = (await store_bytes(store.blobs, b"lone")).digest
        report = await store.collector.collect()
        assert not report.removed
        assert [(garbage.name, garbage.reason) for garbage in report.kept] == [
            (lone, "it was stored within the last hour")
        ]
        store.later_s = _HOUR_S + 1
        plan = await store.collector.collect(dry_run=True)
        assert await store.blobs.stat(lone) is not None
        report = await store.collector.collect()
        assert report.removed == plan.removed
        assert [garbage.name for garbage in report.removed] == [lone]
        assert report.removed_bytes == 4
        assert await store.blobs.stat(lone) is None
        assert await store.blobs.stat(weights) is not None
        assert (await store.verify()).is_whole

    asyncio.run(scenario())


def test_what_was_uploaded_or_stored_again_stays(tmp_path: Path) -> None:
    """A blob that a process holds, and an old one that was just stored again, are not garbage."""

    async def scenario() -> None:
        store = Store(tmp_path, later_s=_HOUR_S + 1)
        uploaded = (await store_bytes(store.blobs, b"uploaded")).digest
        await store.blobs.hold(uploaded)
        report = await store.collector.collect()
        assert [garbage.reason for garbage in report.kept] == ["a running server needs it"]
        store.later_s = 0
        again = (await store_bytes(store.blobs, b"again")).digest
        os.utime(store.blobs.path(again), (1, 1))
        await store_bytes(store.blobs, b"again")
        assert not (await store.collector.collect()).removed

    asyncio.run(scenario())


def test_an_unreadable_manifest_stops_everything(tmp_path: Path) -> None:
    """It might name any blob: nothing is deleted, in a dry run as well."""

    async def scenario() -> None:
        store = Store(tmp_path, later_s=30 * 24 * _HOUR_S)
        await store_bytes(store.blobs, b"lone")
        partial = await store.blobs.begin(digest_of(b"partial"), 7)
        await partial.write(0, b"par")
        await partial.close()
        bad = tmp_path / "manifests/registry.ollama.ai/library/bad/latest"
        bad.parent.mkdir(parents=True)
        bad.write_bytes(bytes(5 * 1024 * 1024))
        before = store.files()
        for dry_run in (True, False):
            with pytest.raises(StorageError, match="larger than"):
                await store.collector.collect(dry_run=dry_run, partials=True)
        assert store.files() - {".corral/store.lock"} == before

    asyncio.run(scenario())


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b"half"])
def test_a_broken_manifest_stops_everything(tmp_path: Path, left: bytes) -> None:
    """Its blobs stay, though what is left of it does not name them, and the error says how it becomes whole again."""

    async def scenario() -> None:
        store = Store(tmp_path, later_s=30 * 24 * _HOUR_S)
        weights = await store.model("broken")
        file = tmp_path / "manifests/registry.ollama.ai/library/broken/latest"
        file.write_bytes(file.read_bytes()[:60] if left == b"half" else left)
        other = await store.model("other", **{"general.name": "other"})
        with pytest.raises(StorageError, match="the manifest of 'broken:latest' is broken") as caught:
            await store.collector.collect()
        assert caught.value.remedy == "pull the model again, or corral rm broken:latest"
        await store.catalog.delete(parse_name("other"))
        assert await store.blobs.stat(weights) is not None
        assert await store.blobs.stat(other) is not None  # the broken manifest might have named it
        await store.catalog.delete(parse_name("broken"))
        removed = (await store.collector.collect()).removed
        assert {weights, other} <= {garbage.name for garbage in removed}

    asyncio.run(scenario())


def test_blobs_without_a_folder_of_manifests_are_not_garbage(tmp_path: Path) -> None:
    """The disk with the manifests may not be mounted."""

    async def scenario() -> None:
        store = Store(tmp_path, later_s=30 * 24 * _HOUR_S)
        weights = await store.model("m")
        (tmp_path / "manifests").rename(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match="does not exist, but there are blobs"):
            await store.collector.collect()
        (tmp_path / "elsewhere").rename(tmp_path / "manifests")
        assert not (await store.collector.collect()).removed
        assert await store.blobs.stat(weights) is not None

    asyncio.run(scenario())


def test_downloads_in_use_stay_and_others_can_be_resumed_for_a_week(tmp_path: Path) -> None:
    """An open partial is never touched; a closed one is kept unless it is old, or `partials` is stated."""

    async def scenario() -> None:
        store = Store(tmp_path, later_s=_HOUR_S * 24)
        live = await store.blobs.begin(digest_of(b"live"), 4)
        await live.write(0, b"li")
        for text in (b"one", b"two"):
            writer = await store.blobs.begin(digest_of(text), 3)
            await writer.write(0, text[:2])
            await writer.close()
        _age(tmp_path, 60.0)
        report = await store.collector.collect()
        assert not report.removed
        assert {(garbage.kind, garbage.size_bytes > 0) for garbage in report.kept} == {("partial", True)}
        assert len(report.kept) == 2
        store.later_s = _HOUR_S * 24 * 8
        report = await store.collector.collect(dry_run=True)
        assert [garbage.kind for garbage in report.removed] == ["partial", "partial"]
        store.later_s = 0
        report = await store.collector.collect(partials=True)
        assert [garbage.kind for garbage in report.removed] == ["partial", "partial"]
        assert {path.name.partition(".")[0] for path in (store.own / "partials").iterdir()} == {digest_of(b"live")[7:]}
        await live.write(2, b"ve")
        assert (await live.commit()).digest == digest_of(b"live")

    asyncio.run(scenario())


def test_a_partial_that_is_resumed_while_it_is_doomed_is_not_deleted(tmp_path: Path) -> None:
    """What was listed as a leftover and is open, or was written to meanwhile, is not discarded."""

    async def scenario() -> None:
        store = Store(tmp_path)
        digest = digest_of(b"resumed")
        writer = await store.blobs.begin(digest, 7)
        await writer.write(0, b"res")
        await writer.close()
        _age(tmp_path, 60.0)
        [leftover] = await store.upkeep.leftovers()
        assert (leftover.kind, leftover.digest) == ("partial", digest)
        writer = await store.blobs.begin(digest, 7)
        assert not await store.upkeep.discard(leftover)
        await writer.write(3, b"u")
        await writer.close()
        assert not await store.upkeep.discard(leftover)
        writer = await store.blobs.begin(digest, 7)
        assert list(writer.written) == [(0, 4)]
        await writer.abort()

    asyncio.run(scenario())


def test_derived_models_go_with_their_source(tmp_path: Path) -> None:
    """A converted model whose source another program deleted goes with its blobs, and what was made from it too."""

    async def scenario() -> None:
        store = Store(tmp_path)
        kept_source = await store.model("kept", **{"general.name": "kept"})
        gone_source = await store.model("gone", **{"general.name": "gone"})
        kept = await store.derived(kept_source, b"kept")
        await store.derived(gone_source, b"gone")
        await store.derived(digest_of(b"gone"), b"made from what was made")
        (tmp_path / "manifests/registry.ollama.ai/library/gone/latest").unlink()
        report = await store.collector.collect()
        assert sorted(garbage.kind for garbage in report.removed if garbage.kind == "derived") == ["derived"] * 2
        assert await store.manifests.get(kept) is not None
        for data in (b"gone", b"made from what was made"):
            assert await store.blobs.stat(digest_of(data)) is None
        assert await store.blobs.stat(digest_of(b"kept")) is not None
        assert await store.blobs.stat(kept_source) is not None
        assert (await store.verify()).is_whole

    asyncio.run(scenario())


def test_leftovers_of_dead_processes_go(tmp_path: Path) -> None:
    """Scratch folders, pins, claims, temporary files, notes, links and Ollama's partials go; live ones stay."""

    async def scenario() -> None:
        store = Store(tmp_path)
        await store.model("m")
        clean = store.files()
        dead = ["work/dead/model.onnx", "work/dead.lock", "pins/old/sha256-x", "pins/old.lock", "claims/a.lock"]
        dead += ["tmp/manifest.json.tmp", f"metadata/{'0' * 64}", f"adopted/{'0' * 64}.json", "partials/scratch-1"]
        dead += [f"folders/{'1' * 64}/model.onnx", f"folders/{'1' * 64}.json", "holds/b.held", "holds/b.lock"]
        for name in dead:
            (store.own / name).parent.mkdir(parents=True, exist_ok=True)
            (store.own / name).write_bytes(b"left")
        (tmp_path / f"blobs/sha256-{'2' * 64}-partial").write_bytes(b"ollama")
        (tmp_path / f"blobs/sha256-{'2' * 64}-partial-0").write_bytes(b"{}")
        (tmp_path / "manifests/registry.ollama.ai/library/empty").mkdir()
        (tmp_path / "blobs/README").write_bytes(b"mine")
        live = store.own / "work" / "live"
        live.mkdir()
        lock = FileLock(live.with_suffix(".lock"))
        assert lock.try_acquire()
        store.later_s = 2 * _HOUR_S
        report = await store.collector.collect()
        assert _kinds(report) == {"scratch", "temporary", "note", "folder", "foreign", "empty"}
        assert live.is_dir()
        lock.release()
        left = store.files() - clean - {"blobs/README", ".corral/work/live.lock", ".corral/store.lock"}
        assert left == set()
        assert not (tmp_path / "manifests/registry.ollama.ai/library/empty").exists()
        assert _kinds(await store.collector.collect(dry_run=True)) == {"scratch"}  # the folder that was live

    asyncio.run(scenario())


def test_a_live_download_of_ollama_stays(tmp_path: Path) -> None:
    """All parts of a download are as young as its youngest."""

    async def scenario() -> None:
        store = Store(tmp_path)
        await store.model("m")
        for part in ("", "-0", "-1"):
            (tmp_path / f"blobs/sha256-{'2' * 64}-partial{part}").write_bytes(b"x")
        os.utime(tmp_path / f"blobs/sha256-{'2' * 64}-partial-0", (1, 1))
        report = await store.collector.collect()
        assert not report.removed
        assert [garbage.kind for garbage in report.kept] == ["foreign"]

    asyncio.run(scenario())


def test_a_store_without_upkeep_is_cleaned_of_blobs() -> None:
    """A store that has only blobs and manifests loses the blobs that no model names."""

    async def scenario() -> None:
        blobs, manifests = MemoryBlobs(), MemoryManifests()
        lone = await store_bytes(blobs, b"lone")
        collector = GarbageCollector(
            manifests=manifests, blobs=blobs, local=blobs, now=lambda: time.time() + 2 * _HOUR_S
        )
        assert [garbage.name for garbage in (await collector.collect()).removed] == [lone.digest]
        assert await blobs.stat(lone.digest) is None

    asyncio.run(scenario())


def test_a_store_that_cannot_tell_the_age_keeps_its_blobs() -> None:
    """What may have been stored just now stays, and the report says why."""

    class Ageless(MemoryBlobs):
        async def list(self) -> AsyncIterator[BlobInfo]:
            async for info in super().list():
                yield msgspec.structs.replace(info, modified_at=None)

    async def scenario() -> None:
        blobs = Ageless()
        await store_bytes(blobs, b"lone")
        collector = GarbageCollector(manifests=MemoryManifests(), blobs=blobs, local=blobs)
        report = await collector.collect()
        assert [garbage.reason for garbage in report.kept] == ["this store cannot tell how old it is"]

    asyncio.run(scenario())


def test_broken_blobs_are_put_aside_and_named(tmp_path: Path) -> None:
    """A damaged blob is moved, never deleted; the report names its models; after another upload all is whole."""

    async def scenario() -> None:
        store = Store(tmp_path)
        weights = await store.model("m")
        await store.catalog.copy(parse_name("m"), parse_name("n"))
        await store.model("other", **{"general.name": "other"})
        assert (await store.verify()).is_whole
        path = store.blobs.path(weights)
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        report = await store.verify("other")
        assert report.is_whole
        report = await store.verify()
        [broken] = report.broken
        assert (broken.digest, set(broken.models)) == (weights, {"m:latest", "n:latest"})
        assert not report.missing
        assert broken.quarantined_at is not None
        assert _read(broken.quarantined_at) == good[:-1] + bytes([good[-1] ^ 1])
        assert await store.blobs.stat(weights) is None
        report = await store.verify("m")
        assert [(missing.digest, set(missing.models)) for missing in report.missing] == [(weights, {"m:latest"})]
        assert [garbage.kind for garbage in (await store.collector.collect()).kept] == ["quarantined"]
        await store_bytes(store.blobs, good)
        assert (await store.verify()).is_whole
        assert store.told[-1].completed_bytes == store.told[-1].total_bytes

    asyncio.run(scenario())


def test_a_blob_that_was_stored_again_is_not_put_aside(tmp_path: Path) -> None:
    """Between reading and moving, somebody may have repaired it."""

    async def scenario() -> None:
        store = Store(tmp_path)
        info = await store_bytes(store.blobs, b"good")
        os.utime(store.blobs.path(info.digest), (1, 1))
        old = await store.blobs.stat(info.digest)
        assert old is not None
        await store_bytes(store.blobs, b"good")
        assert await store.upkeep.quarantine(old) is None
        assert await store.blobs.stat(info.digest) is not None

    asyncio.run(scenario())


def test_a_store_that_cannot_put_aside_says_so() -> None:
    """The broken blob stays, and the report says that this store cannot move it."""

    class Rotten(MemoryBlobs):
        def rot(self, digest: Digest) -> None:
            self._blobs[digest] = b"evil"

    async def scenario() -> None:
        blobs, manifests = Rotten(), MemoryManifests()
        info = await store_bytes(blobs, b"good")
        blobs.rot(info.digest)
        verifier = StoreVerifier(manifests=manifests, blobs=blobs, formats=[OllamaManifestFormat()])
        report = await verifier.verify([], lambda progress: None)
        assert "cannot move it aside" in report.broken[0].fault
        assert report.broken[0].quarantined_at is None
        assert await blobs.stat(info.digest) is not None

    asyncio.run(scenario())


def test_models_that_cannot_be_verified(tmp_path: Path) -> None:
    """A name that does not exist raises ModelNotFound; a manifest that nobody can read is reported."""

    async def scenario() -> None:
        store = Store(tmp_path)
        with pytest.raises(ModelNotFound):
            await store.verify("nowhere")
        await store.manifests.put(parse_name("bad"), b"{}")
        report = await store.verify()
        assert [unreadable.model for unreadable in report.unreadable] == ["bad:latest"]
        assert not report.is_whole

    asyncio.run(scenario())


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _age(root: Path, seconds: float) -> None:
    """Makes every file older."""
    for path in root.rglob("*"):
        if path.is_file():
            time_s = path.stat().st_mtime - seconds
            os.utime(path, (time_s, time_s))


def test_without_pruning_a_replaced_model_keeps_its_files(tmp_path: Path) -> None:
    """With OLLAMA_NOPRUNE, what a copy or a new version replaces stays until `gc`; a deleted model still loses its
    files."""
    assert read_environment({"OLLAMA_NOPRUNE": "1"})[("prune",)].value is False
    assert read_environment({"OLLAMA_NOPRUNE": "0"})[("prune",)].value is True

    async def scenario(prune: bool) -> tuple[bool, bool]:
        store = Store(tmp_path / str(prune), prune=prune)
        first = await store.model("m", **{"general.name": "first"})
        second = await store.model("n", **{"general.name": "second"})
        await store.catalog.copy(parse_name("n"), parse_name("m"))
        replaced = await store.blobs.stat(first) is not None
        await store.catalog.delete(parse_name("n"))
        await store.catalog.delete(parse_name("m"))
        return replaced, await store.blobs.stat(second) is not None

    assert asyncio.run(scenario(True)) == (False, False)
    assert asyncio.run(scenario(False)) == (True, False)


def test_a_manifest_with_an_invalid_name_stops_deletions(tmp_path: Path) -> None:
    """It may be the only one that names a blob; files that name none do not matter."""

    async def scenario() -> None:
        store = Store(tmp_path, later_s=2 * _HOUR_S)
        weights = await store.model("m")
        odd = tmp_path / "manifests/registry.ollama.ai/library/m/not a tag"
        (odd.parent / ".DS_Store").write_bytes(b"finder")
        assert not (await store.collector.collect()).removed
        (odd.parent / "latest").rename(odd)
        with pytest.raises(StorageError, match="its name is invalid"):
            await store.collector.collect()
        assert await store.blobs.stat(weights) is not None

    asyncio.run(scenario())


def test_an_uploaded_blob_goes_with_the_last_model_that_was_created_from_it(tmp_path: Path) -> None:
    """It is held from its upload until a model has it; another upload of it holds it for that client."""
    data = gguf_bytes({"general.architecture": "llama"})

    async def body() -> AsyncIterator[bytes]:
        yield data

    async def scenario() -> None:
        store = Store(tmp_path)
        digest = digest_of(data)
        await store.catalog.uploads.receive(digest, body())
        assert await store.catalog.uploads.has(digest)  # another client, which need not upload it
        for number, name in enumerate(("one", "two")):
            call = CreateCall(name=parse_name(name), files={"model.gguf": digest})
            await store.catalog.creator.create(call, lambda progress: None)
            await store.catalog.delete(parse_name(name))
            assert (await store.blobs.stat(digest) is None) == (number == 1)

    asyncio.run(scenario())
