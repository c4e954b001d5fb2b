"""The model catalog over in-memory and filesystem stores: looking up, copying, deleting, importing, pulling."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.adapters.stores.metadata_cache import FilesystemMetadataCache
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.upstreams import upstream_model
from corral.core.errors import (
    BlobNotFound,
    Conflict,
    DigestMismatch,
    InvalidModelFile,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    SourceError,
    Unsupported,
)
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import Model, ModelMetadata
from corral.core.models.names import ModelName, parse_name
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.sources import FetchProgress, ModelSource, OnProgress, RemoteFile, SourceModel
from corral.core.ports.upstreams import OfferedModel
from corral.core.random_access import RandomAccess
from corral.core.specs.engines import LocalFile
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

_IMAGE = "application/vnd.ollama.image."


class CountingReader(GgufReader):
    """A GGUF reader that counts how often a header is read."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, source: RandomAccess) -> ModelMetadata:
        self.reads += 1
        return super().read(source)


class ListSource:
    """Serves files from memory, in small chunks; `fail_at` breaks the stream there, once."""

    def __init__(self, files: dict[str, bytes], *, digests: bool = False, fail_at: int | None = None) -> None:
        self._files = files
        self._digests = digests
        self.fail_at = fail_at
        self.starts: list[int] = []
        self.closed = 0

    @property
    def scheme(self) -> str:
        return "list"

    def resolve(self, reference: str, on_progress: OnProgress) -> AbstractAsyncContextManager[SourceModel]:
        return self._resolve(reference)

    @asynccontextmanager
    async def _resolve(self, reference: str) -> AsyncIterator[SourceModel]:
        files = tuple(
            RemoteFile(file_name=name, size_bytes=len(data), digest=digest_of(data) if self._digests else None)
            for name, data in self._files.items()
        )
        try:
            yield SourceModel(reference=reference, files=files)
        finally:
            self.closed += 1

    async def fetch(self, file: RemoteFile, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        assert end is None
        self.starts.append(start)
        data = self._files[file.file_name]
        for offset in range(start, len(data), 100):
            if self.fail_at is not None and offset >= self.fail_at:
                self.fail_at = None
                raise SourceError("the line went dead")
            yield data[offset : offset + 100]


class Store:
    """A catalog and its parts, for tests that look inside."""

    def __init__(self, blobs: Any, manifests: ManifestStore) -> None:
        self.blobs: BlobStore = blobs
        self.local: LocalBlobs = blobs
        self.manifests = manifests
        self.reader = CountingReader()

    def catalog(self, *sources: ModelSource, **more: Any) -> ModelCatalog:
        return ModelCatalog(
            manifests=self.manifests,
            blobs=self.blobs,
            local=self.local,
            formats=more.pop("formats", [OllamaManifestFormat()]),
            readers=[self.reader],
            sources=sources,
            **more,
        )

    async def digests(self) -> set[Digest]:
        return {info.digest async for info in self.blobs.list()}

    async def put(self, name: str, layers: Sequence[tuple[str, bytes]], config: dict[str, Any] | None = None) -> None:
        """A model as Ollama would have left it."""
        described = []
        blobs = [("config", json.dumps(config or {"model_format": "gguf"}).encode()), *layers]
        for kind, data in blobs:
            writer = await self.blobs.begin()
            await writer.write(0, data)
            info = await writer.commit()
            described.append({"mediaType": _IMAGE + kind, "digest": info.digest, "size": info.size_bytes})
        described[0]["mediaType"] = "application/vnd.docker.container.image.v1+json"
        manifest = {"schemaVersion": 2, "config": described[0], "layers": described[1:]}
        await self.manifests.put(parse_name(name), json.dumps(manifest).encode())


def _content(file: LocalFile) -> bytes:
    return Path(file.path).read_bytes()


@pytest.fixture
def store(either_store: tuple[Any, Any]) -> Store:
    return Store(*either_store)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "Small-Model.Q4_1.gguf"
    path.write_bytes(gguf_bytes())
    return path


def test_an_imported_file_is_a_model(store: Store, weights: Path) -> None:
    """An imported GGUF has its name, family, sizes, quantization and file; each step was reported."""

    async def scenario() -> None:
        told: list[FetchProgress] = []
        record = await store.catalog().import_file(weights, None, told.append)
        assert record.name.short == "small-model:q4_1"
        assert (record.format, record.family, record.families) == ("gguf", "llama", ("llama",))
        assert (record.parameter_size, record.quantization) == ("32", "Q4_1")
        assert (record.context_length, record.embedding_length) == (256, 32)
        assert [step.status for step in told] == ["importing Small-Model.Q4_1.gguf", "writing manifest", "success"]
        found = await store.catalog().get(parse_name("SMALL-model:Q4_1"))
        assert found == record
        (file,) = store.catalog().local_files(found)
        assert (file.role, _content(file)) == ("weights", gguf_bytes())

    asyncio.run(scenario())


def test_a_given_name_wins_and_replaces(store: Store, weights: Path) -> None:
    """Importing under an existing name replaces the model and keeps the spelling of the name."""
    other = weights.with_name("other.gguf")
    other.write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": "Other"}))

    async def scenario() -> None:
        catalog = store.catalog()
        first = await catalog.import_file(weights, parse_name("Mine:V1"))
        second = await catalog.import_file(other, parse_name("mine:v1"))
        assert second.name.short == "Mine:V1"
        assert first.digest != second.digest
        assert len(await catalog.list()) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"Once upon a time", "text beginning with"),
        (gguf_bytes()[:-200], "truncated"),
        (gguf_bytes({"general.architecture": "clip"}), "needs exactly one weights file"),
        (gguf_bytes({"general.architecture": "llama", "general.type": "adapter"}), "only adapters of the type 'lora'"),
        (gguf_bytes({**SMALL_MODEL, "split.count": 3, "split.no": 0}), "must use llama.cpp split filename pattern"),
    ],
)
def test_a_file_that_is_no_model_is_refused(store: Store, tmp_path: Path, data: bytes, complaint: str) -> None:
    """The error says why, and no manifest is written."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)

    async def scenario() -> None:
        with pytest.raises(InvalidModelFile, match=complaint):
            await store.catalog().import_file(path)
        assert await store.catalog().list() == []
        assert await store.digests() == set()

    asyncio.run(scenario())


def test_what_is_no_file_is_not_found(store: Store, tmp_path: Path) -> None:
    """A missing path is NotFound; a file without a known format is InvalidModelFile."""

    async def scenario() -> None:
        with pytest.raises(NotFound):
            await store.catalog().import_file(tmp_path / "absent.gguf")
        (tmp_path / "image.png").write_bytes(b"\x89PNG")
        with pytest.raises(InvalidModelFile, match="gguf"):
            await store.catalog().import_file(tmp_path / "image.png")

    asyncio.run(scenario())


def test_many_imports_of_one_file_at_once(store: Store, weights: Path) -> None:
    """Importing the same file under different names at once succeeds, and the models share their blobs."""

    async def scenario() -> None:
        catalog = store.catalog()
        names = [parse_name(f"m:{number}") for number in range(8)]
        await asyncio.gather(*(catalog.import_file(weights, name) for name in names))
        assert {record.name.short for record in await catalog.list()} == {name.short for name in names}
        assert len(await store.digests()) == 2

    asyncio.run(scenario())


def test_lists_are_newest_first(store: Store) -> None:
    """The order is by time of the last change, then by name; an unreadable model is left out, with one warning."""

    async def scenario() -> None:
        for name in ("b", "a", "c"):
            await store.put(name, [("model", b"w")])
            await asyncio.sleep(0.02)
        assert [record.name.model for record in await store.catalog().list()] == ["c", "a", "b"]

    asyncio.run(scenario())


def test_an_unreadable_model_does_not_hide_the_others(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A foreign or broken manifest is missing from the list with one warning, and is an error when asked for."""

    async def scenario() -> None:
        await store.put("good", [("model", b"w")])
        await store.manifests.put(parse_name("bad"), b"not a manifest")
        catalog = store.catalog()
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert [record.name.model for record in await catalog.list()] == ["good"]
        assert caplog.text.count("bad:latest is missing from the list") == 1

    asyncio.run(scenario())


def test_absent_models_are_not_found(store: Store) -> None:
    """Looking up, copying and deleting an absent model raise ModelNotFound with its short name."""

    async def scenario() -> None:
        catalog = store.catalog()
        name = parse_name("nobody")
        for call in (catalog.get(name), catalog.copy(name, parse_name("x")), catalog.delete(name)):
            with pytest.raises(ModelNotFound, match="'nobody:latest' not found"):
                await call

    asyncio.run(scenario())


def test_copies_share_everything(store: Store, weights: Path) -> None:
    """A copy is the same manifest under another name; a copy onto itself, in any case, changes nothing."""

    async def scenario() -> None:
        catalog = store.catalog()
        record = await catalog.import_file(weights, parse_name("one"))
        blobs = await store.digests()
        await catalog.copy(parse_name("one"), parse_name("Other/two:x"))
        await catalog.copy(parse_name("one"), parse_name("ONE"))
        copied = await catalog.get(parse_name("other/two:x"))
        assert (copied.digest, copied.name.short) == (record.digest, "Other/two:x")
        assert await store.digests() == blobs
        assert len(await catalog.list()) == 2

    asyncio.run(scenario())


def test_many_copies_at_once(store: Store, weights: Path) -> None:
    """Copies that run together, to new names, to one name and beside deletions, never fail."""

    async def scenario() -> None:
        catalog = store.catalog()
        await catalog.import_file(weights, parse_name("one"))

        async def come_and_go(number: int) -> None:
            for _ in range(3):
                await catalog.copy(parse_name("one"), parse_name(f"ns/copy:{number}"))
                await catalog.delete(parse_name(f"ns/copy:{number}"))
            await catalog.copy(parse_name("one"), parse_name(f"ns/copy:{number}"))
            await catalog.copy(parse_name("one"), parse_name("ns/same"))

        await asyncio.gather(*(come_and_go(number) for number in range(8)))
        assert len(await catalog.list()) == 1 + 8 + 1
        assert (await catalog.metadata(await catalog.get(parse_name("ns/copy:3")))) is not None

    asyncio.run(scenario())


def test_deletion_counts_references(store: Store) -> None:
    """A blob is deleted with the last manifest that names it; blobs that no manifest ever named are left alone."""

    async def scenario() -> None:
        await store.put("a", [("model", b"shared"), ("system", b"only a")])
        await store.put("b", [("model", b"shared"), ("system", b"only b")])
        writer = await store.blobs.begin()
        await writer.write(0, b"somebody's upload")
        stray = (await writer.commit()).digest
        catalog = store.catalog()
        await catalog.delete(parse_name("A"))
        left = await store.digests()
        assert digest_of(b"shared") in left
        assert digest_of(b"only a") not in left
        assert digest_of(b"only b") in left
        await catalog.delete(parse_name("b"))
        assert await store.digests() == {stray}

    asyncio.run(scenario())


def test_foreign_manifests_keep_their_blobs(store: Store) -> None:
    """A manifest of an unknown dialect still counts as a reference."""

    async def scenario() -> None:
        await store.put("a", [("model", b"shared")])
        mention = f'{{"blobs":[{{"digest":"{digest_of(b"shared")}"}}]}}'.encode()
        await store.manifests.put(parse_name("foreign"), mention)
        await store.catalog().delete(parse_name("a"))
        assert await store.digests() == {digest_of(b"shared")}

    asyncio.run(scenario())


def _weights(folder: Path, number: int) -> Path:
    path = folder / f"weights-{number}.gguf"
    path.write_bytes(gguf_bytes({**SMALL_MODEL, "llama.context_length": 256 + number}))
    return path


def test_what_a_replaced_model_alone_had_is_deleted(store: Store, tmp_path: Path) -> None:
    """Five imports under one name leave no more than one would; blobs of a copy and of a foreign manifest stay."""

    async def scenario() -> None:
        catalog, name = store.catalog(), parse_name("one")
        await store.put("theirs", [("model", _weights(tmp_path, 0).read_bytes())])
        theirs = await store.digests()
        for number in range(1, 6):
            await catalog.import_file(_weights(tmp_path, number), name)
        last = await catalog.get(name)
        config = (await store.digests()) - theirs - {file.digest for file in last.files}
        assert len(config) == 1
        await catalog.copy(name, parse_name("kept"))
        kept = await store.digests()
        await catalog.import_file(_weights(tmp_path, 0), name)
        assert kept < await store.digests()
        await catalog.copy(parse_name("theirs"), parse_name("kept"))
        await catalog.delete(name)
        assert await store.digests() == theirs

    asyncio.run(scenario())


def test_a_pull_under_a_taken_name_leaves_no_old_weights(store: Store, tmp_path: Path) -> None:
    """What the name referred to before is deleted, even if an upstream takes over the name."""

    async def scenario() -> None:
        name = parse_name("one")
        for number in range(3):
            data = _weights(tmp_path, number).read_bytes()
            record = await store.catalog(ListSource({"w.gguf": data})).pull("list://x", name)
        assert record.weights is not None
        assert len(await store.digests()) == 2
        offer = OfferedModel(host="http://127.0.0.1:9", model="m", api="ollama")
        await store.catalog().publish(name, upstream_model([offer], api=None, capabilities=()))
        assert record.weights.digest not in await store.digests()

    asyncio.run(scenario())


def test_models_that_take_turns_under_one_name(store: Store, tmp_path: Path) -> None:
    """Repeated concurrent imports of two files under one name all succeed, and one model remains."""

    async def scenario() -> None:
        files = [_weights(tmp_path, number) for number in range(2)]
        name = parse_name("one")

        async def again(number: int) -> None:
            for _ in range(4):
                await store.catalog().import_file(files[number % 2], name)

        await asyncio.gather(*(again(number) for number in range(4)))
        record = await store.catalog().get(name)
        for file in record.files:
            assert await store.blobs.stat(file.digest) is not None
        assert len(await store.digests()) == 2

    asyncio.run(scenario())


def test_an_import_that_cannot_be_published_leaves_nothing(store: Store, weights: Path) -> None:
    """Weights that end up in no manifest are deleted again, unless another model has them."""

    async def scenario() -> None:
        class Refusing(OllamaManifestFormat):
            def write(self, name: ModelName, model: Model) -> tuple[bytes, tuple[bytes, ...]]:
                raise Unsupported("no")

        before = await store.digests()
        catalog = store.catalog(formats=[Refusing()])
        with pytest.raises(Unsupported):
            await catalog.import_file(weights, parse_name("one"))
        assert await store.digests() == before
        await store.catalog().import_file(weights, parse_name("one"))
        before = await store.digests()
        with pytest.raises(Unsupported):
            await catalog.import_file(weights, parse_name("two"))
        assert await store.digests() == before

    asyncio.run(scenario())


def test_any_model_can_be_deleted(store: Store) -> None:
    """A model with missing config or weights, or an empty, broken or unknown manifest, can be deleted with its
    blobs."""

    async def scenario() -> None:
        catalog = store.catalog()
        await store.put("other", [("model", b"other")])
        others = await store.digests()
        await store.put("headless", [("model", b"w1")], {"model_format": "gguf", "model_family": "gone"})
        [config] = await store.digests() - others - {digest_of(b"w1")}
        for name, manifest in {
            "empty": b"",
            "broken": b'{"layers": [{"digest": "' + digest_of(b"w2").encode(),
            "foreign": b'{"blobs": ["' + digest_of(b"w2").encode() + b'"]}',
        }.items():
            await store.manifests.put(parse_name(name), manifest)
        writer = await store.blobs.begin()
        await writer.write(0, b"w2")
        await writer.commit()
        await store.blobs.delete(config)
        for name in ("empty", "broken", "headless", "foreign"):  # no blob goes as long as a manifest is broken
            assert await catalog.delete(parse_name(name)) is None
            with pytest.raises(ModelNotFound):
                await catalog.delete(parse_name(name))
        assert await store.digests() == others

    asyncio.run(scenario())


def test_an_unreadable_manifest_stops_the_deletion_of_blobs(tmp_path: Path) -> None:
    """While one manifest cannot be read, a deletion removes the name and keeps every blob."""
    store = Store(FilesystemBlobs(tmp_path), FilesystemManifests(tmp_path))

    async def scenario() -> None:
        await store.put("a", [("model", b"weights")])
        before = await store.digests()
        unreadable = tmp_path / "manifests/registry.ollama.ai/library/huge/latest"
        unreadable.parent.mkdir(parents=True)
        unreadable.write_bytes(bytes(5 * 1024 * 1024))
        await store.catalog().delete(parse_name("a"))
        assert await store.digests() == before
        with pytest.raises(ModelNotFound):
            await store.catalog().get(parse_name("a"))

    asyncio.run(scenario())


def test_headers_are_read_once(tmp_path: Path, weights: Path) -> None:
    """Metadata is remembered by digest: in memory, and beside the store for the next process."""
    store = Store(FilesystemBlobs(tmp_path / "models"), FilesystemManifests(tmp_path / "models"))

    async def scenario() -> None:
        cache = FilesystemMetadataCache(tmp_path / "models")
        catalog = store.catalog(cache=cache)
        record = await catalog.import_file(weights)
        store.reader.reads = 0
        first = await catalog.metadata(record)
        assert await catalog.metadata(record) == first
        assert store.reader.reads <= 1
        assert await store.catalog(cache=cache).metadata(record) == first
        assert store.reader.reads <= 1
        assert first is not None
        assert first.keys["general.name"] == "Small"

    asyncio.run(scenario())


def test_show_facts(store: Store, weights: Path) -> None:
    """Key-values (with arrays only when verbose), tensors and capabilities come from the weights."""

    async def scenario() -> None:
        catalog = store.catalog()
        record = await catalog.import_file(weights)
        brief = await catalog.describe(record, verbose=False)
        assert brief["tokenizer.ggml.tokens"] is None
        brief["tokenizer.ggml.tokens"] = "changed by a caller"
        assert (await catalog.describe(record, verbose=False))["tokenizer.ggml.tokens"] is None
        verbose = await catalog.describe(record, verbose=True)
        assert verbose["tokenizer.ggml.tokens"] == SMALL_MODEL["tokenizer.ggml.tokens"]
        assert await catalog.tensors(record) == [("token_embd.weight", "F32", (32,))]
        assert await catalog.capabilities(record) == ("completion",)

    asyncio.run(scenario())


def test_missing_and_changed_weights_are_clear_errors(store: Store) -> None:
    """Missing weights raise BlobNotFound; list and capabilities work without them."""

    async def scenario() -> None:
        await store.put("m", [("model", b"not gguf"), ("template", b"{{ if .Tools }}x{{ end }}")])
        catalog = store.catalog()
        record = await catalog.get(parse_name("m"))
        assert await catalog.metadata(record) is None
        await store.blobs.delete(digest_of(b"not gguf"))
        with pytest.raises(BlobNotFound, match="missing from the store"):
            await catalog.metadata(record)
        assert len(await catalog.list()) == 1
        assert await catalog.capabilities(record) == ("tools",)

    asyncio.run(scenario())


def test_an_upstream_has_no_weights(store: Store) -> None:
    """A model that runs elsewhere is described from its config alone."""

    async def scenario() -> None:
        config = {
            "remote_host": "https://ollama.com",
            "remote_model": "big",
            "model_family": "big",
            "context_length": 4096,
            "capabilities": ["completion", "tools"],
        }
        await store.put("big-cloud", [], config)
        catalog = store.catalog()
        record = await catalog.get(parse_name("big-cloud"))
        assert await catalog.metadata(record) is None
        assert catalog.local_files(record) == ()
        assert await catalog.tensors(record) == []
        assert await catalog.capabilities(record) == ("completion", "tools")
        assert await catalog.describe(record, verbose=False) == {
            "general.architecture": "big",
            "big.context_length": 4096,
        }

    asyncio.run(scenario())


def test_local_files_are_what_an_engine_loads(store: Store) -> None:
    """The last weights, projectors, adapters and drafts; texts are not files for an engine."""

    async def scenario() -> None:
        kinds = ("model", "projector", "adapter", "system", "model")
        await store.put("m", [(kind, f"{kind}{number}".encode()) for number, kind in enumerate(kinds)])
        catalog = store.catalog()
        files = catalog.local_files(await catalog.get(parse_name("m")))
        assert [(file.role, _content(file)) for file in files] == [
            ("weights", b"model4"),
            ("projector", b"projector1"),
            ("adapter", b"adapter2"),
        ]

    asyncio.run(scenario())


def test_a_pull_streams_into_the_store(store: Store) -> None:
    """Weights and projector of a source become one model; progress counts bytes; the source is released."""
    projector = gguf_bytes({"general.architecture": "clip", "clip.has_vision_encoder": True})
    source = ListSource({"a-model.Q8_0.gguf": gguf_bytes(), "mmproj.gguf": projector})

    async def scenario() -> None:
        told: list[FetchProgress] = []
        record = await store.catalog(source).pull("list://x", None, told.append)
        assert record.name.short == "a-model:q8_0"
        assert [file.role for file in record.files] == ["weights", "projector"]
        assert await store.catalog().capabilities(record) == ("completion", "vision")
        for name, data in (("a-model.Q8_0.gguf", gguf_bytes()), ("mmproj.gguf", projector)):
            counted = [step.completed_bytes for step in told if step.status == f"storing {name}"]
            assert counted == [*range(0, len(data), 100), len(data)]
        assert told[-1].status == "success"
        assert source.closed == 1

    asyncio.run(scenario())


def test_an_interrupted_pull_is_resumed(store: Store) -> None:
    """If the digest is known, a second attempt fetches only what is still missing."""
    source = ListSource({"m.gguf": gguf_bytes()}, digests=True, fail_at=300)

    async def scenario() -> None:
        catalog = store.catalog(source)
        with pytest.raises(SourceError, match="dead"):
            await catalog.pull("list://x")
        await catalog.pull("list://x")
        assert source.starts == [0, 300]
        await catalog.pull("list://x", parse_name("again"))
        assert source.starts == [0, 300]
        assert len(await catalog.list()) == 2

    asyncio.run(scenario())


def test_a_pull_that_fails_leaves_nothing(store: Store) -> None:
    """A broken stream without a digest, and files that are not a model, leave neither blob nor manifest."""
    cases = (
        (ListSource({"m.gguf": gguf_bytes()}, fail_at=300), SourceError),
        (ListSource({"m.gguf": b"text of no model"}), InvalidModelFile),
        (ListSource({"a.gguf": gguf_bytes(), "b.gguf": gguf_bytes(version=2)}), InvalidModelFile),
    )

    async def scenario() -> None:
        for source, expected in cases:
            with pytest.raises(expected):
                await store.catalog(source).pull("list://x")
            assert await store.digests() == set()
            assert await store.catalog().list() == []
            assert source.closed == 1

    asyncio.run(scenario())


def test_files_that_are_alike_are_fetched_once(store: Store) -> None:
    """Two files with one digest become one blob, although files are fetched side by side."""
    projector = gguf_bytes({"general.architecture": "clip", "clip.has_vision_encoder": True})
    source = ListSource({"a.gguf": gguf_bytes(), "one.gguf": projector, "other.gguf": projector}, digests=True)

    async def scenario() -> None:
        record = await store.catalog(source).pull("list://x")
        assert [file.role for file in record.files] == ["weights", "projector", "projector"]
        assert len(source.starts) == 2

    asyncio.run(scenario())


def test_a_failed_pull_spares_blobs_in_use(store: Store) -> None:
    """Blobs that a failed pull has fetched stay if a model has them."""
    source = ListSource({"a.gguf": gguf_bytes(), "b.gguf": b"text of no model"})

    async def scenario() -> None:
        await store.put("m", [("model", gguf_bytes())])
        with pytest.raises(InvalidModelFile):
            await store.catalog(source).pull("list://x")
        assert digest_of(gguf_bytes()) in await store.digests()
        assert digest_of(b"text of no model") not in await store.digests()

    asyncio.run(scenario())


class HeldManifests(MemoryManifests):
    """Another process holds the store's lock all the time."""

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        if exclusive:
            raise Conflict("somebody has held the store for half a minute")
        return super().guard(exclusive=exclusive)


def test_a_failed_pull_tells_its_own_fault() -> None:
    """If what it fetched cannot be deleted either, the error is still the pull's own; the same for a cancellation."""
    source = ListSource({"m.gguf": b"text of no model"})

    async def scenario() -> None:
        with pytest.raises(InvalidModelFile):
            await Store(MemoryBlobs(), HeldManifests()).catalog(source).pull("list://x")

    asyncio.run(scenario())


def test_a_file_that_is_not_what_it_was_announced_as_is_refused(store: Store) -> None:
    """A source's file is checked against its digest, and does not stay in the store."""
    announced = RemoteFile(file_name="m.gguf", size_bytes=len(gguf_bytes()), digest=digest_of(b"something else"))

    class Liar(ListSource):
        @asynccontextmanager
        async def _resolve(self, reference: str) -> AsyncIterator[SourceModel]:
            yield SourceModel(reference=reference, files=(announced,))

    async def scenario() -> None:
        with pytest.raises(DigestMismatch):
            await store.catalog(Liar({"m.gguf": gguf_bytes()})).pull("list://x")
        assert await store.digests() == set()

    asyncio.run(scenario())


@pytest.mark.parametrize("reference", ["llama3", "nowhere://x", "://x", ""])
def test_a_reference_without_a_source_is_refused(store: Store, reference: str) -> None:
    """The remedy lists the available schemes."""

    async def scenario() -> None:
        with pytest.raises(InvalidRequest) as caught:
            await store.catalog(ListSource({})).pull(reference)
        assert "list://" in (caught.value.remedy or "")

    asyncio.run(scenario())
