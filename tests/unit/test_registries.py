"""Models pulled from registries and pushed to them: manifests unchanged, blobs side by side, nothing left half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.side_by_side import side_by_side
from corral.core.catalog.transfer_policy import TransferPolicy
from corral.core.errors import (
    BlobNotFound,
    DigestMismatch,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    SourceError,
    SourceUnavailable,
    StorageError,
)
from corral.core.models.digests import Digest, digest_of
from corral.core.models.names import parse_name
from corral.core.models.references import Reference, name_from_reference, parse_reference
from corral.core.ports.sources import FetchProgress
from corral.core.specs.converters import DERIVED_HOST
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes
from corral.plugins.testing.registry import MemoryRegistry, push_model

_IMAGE = "application/vnd.ollama.image."
CONFIG = b'{"model_format":"gguf","model_family":"llama","model_type":"32","file_type":"F32"}'
WEIGHTS = gguf_bytes(SMALL_MODEL, (TensorEntry("w", (1 << 20,), 0, 1 << 22),))
LAYERS = ((f"{_IMAGE}model", WEIGHTS), (f"{_IMAGE}system", b"Be brief."), (f"{_IMAGE}license", b"Free."))


class Watched(MemoryRegistry):
    """Counts what is fetched and how many fetches run at once; `cut_at` ends every stream there, until it is None."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[Digest, int, int | None]] = []
        self.running = self.most_running = 0
        self.cut_at: int | None = None
        self.stalled = asyncio.Event()
        self.stall = False
        self.closed = ""  # the repository whose blobs are refused

    async def fetch(
        self, reference: Reference, blob: Digest, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        self.ranges.append((blob, start, end))
        if reference.path == self.closed:
            await asyncio.sleep(0)
            raise SourceError("unauthorized: access denied")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async for chunk in super().fetch(reference, blob, start, end):
                await asyncio.sleep(0)
                if self.stall:
                    self.stalled.set()
                    await asyncio.Event().wait()
                yield chunk
                start += len(chunk)
                if self.cut_at is not None and start >= self.cut_at:
                    raise SourceError("the line went dead")
        finally:
            self.running -= 1


class Store:
    def __init__(self, blobs: Any, manifests: Any) -> None:
        self.blobs = blobs
        self.manifests = manifests
        self.registry = Watched()

    def catalog(self, default_registry: str | None = None) -> ModelCatalog:
        return ModelCatalog(
            manifests=self.manifests,
            blobs=self.blobs,
            local=self.blobs,
            formats=[OllamaManifestFormat(), ModelPackFormat()],
            readers=[GgufReader()],
            registries=[self.registry],
            default_registry=default_registry,
            policy=TransferPolicy(pause_s=0),
        )

    async def digests(self) -> set[Digest]:
        return {info.digest async for info in self.blobs.list()}


@pytest.fixture
def store(either_store: tuple[Any, Any]) -> Store:
    return Store(*either_store)


SMALL = parse_reference("mem://house/small:q4")


def test_a_pulled_model_is_the_published_one(store: Store) -> None:
    """Name, manifest and digest are the registry's, to the byte; all blobs are there, and the model is read."""

    async def scenario() -> None:
        manifest = await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        told: list[FetchProgress] = []
        record = await store.catalog().pull(str(SMALL), None, told.append)
        assert (record.name.short, record.digest) == ("house/small:q4", digest_of(manifest))
        assert (record.system, record.licenses, record.quantization) == ("Be brief.", ("Free.",), "F32")
        stored = await store.manifests.get(record.name)
        assert stored.data == manifest
        assert await store.digests() == {digest_of(data) for data in (CONFIG, *(data for _, data in LAYERS))}
        assert await store.catalog().get(record.name) == record
        metadata = await store.catalog().metadata(record)
        assert metadata is not None
        assert metadata.architecture == "llama"
        assert [told[0].status, told[-1].status] == ["pulling manifest", "success"]
        status = f"pulling {digest_of(WEIGHTS)[7:19]}"
        counted = [(step.completed_bytes, step.total_bytes) for step in told if step.status == status]
        assert counted == sorted(counted)
        assert counted[-1] == (len(WEIGHTS), len(WEIGHTS))

    asyncio.run(scenario())


def test_blobs_come_side_by_side_and_once(store: Store) -> None:
    """A few at a time; a layer that occurs twice, or is there already, is not fetched again."""

    async def scenario() -> None:
        layers = [(f"{_IMAGE}adapter", f"adapter {number}".encode()) for number in range(12)]
        await push_model(store.registry, SMALL, CONFIG, *LAYERS, *layers, layers[0])
        await store.catalog().pull(str(SMALL))
        assert 2 <= store.registry.most_running <= 4
        assert len(store.registry.ranges) == len({blob for blob, _, _ in store.registry.ranges}) == 16
        store.registry.ranges.clear()
        other = parse_reference("mem://house/other")
        await push_model(store.registry, other, CONFIG, *LAYERS[1:], *layers[:2], (f"{_IMAGE}model", gguf_bytes()))
        record = await store.catalog().pull(str(other), parse_name("mine"))
        assert [blob for blob, _, _ in store.registry.ranges] == [digest_of(gguf_bytes())]
        assert record.name.short == "mine:latest"

    asyncio.run(scenario())


def test_a_pull_that_broke_is_resumed(store: Store) -> None:
    """What has arrived is not fetched again, not even part of a blob; until it is complete there is no model."""

    async def scenario() -> None:
        await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        store.registry.cut_at = 2 << 20
        with pytest.raises(SourceError, match="the line went dead"):
            await store.catalog().pull(str(SMALL))
        assert await store.catalog().list() == []
        store.registry.cut_at = None
        store.registry.ranges.clear()
        await store.catalog().pull(str(SMALL))
        assert store.registry.ranges == [(digest_of(WEIGHTS), 2 << 20, len(WEIGHTS))]

    asyncio.run(scenario())


def test_many_pulls_of_one_model_at_once(store: Store) -> None:
    """All succeed, under one name or several, and each blob is fetched once."""

    async def scenario() -> None:
        await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        catalog = store.catalog()
        names = [None, None, *(parse_name(f"copy-{number}") for number in range(10)), None]
        records = await asyncio.gather(*(catalog.pull(str(SMALL), name) for name in names))
        assert len({record.digest for record in records}) == 1
        assert len(store.registry.ranges) == 4
        assert len(await catalog.list()) == 11

    asyncio.run(scenario())


def test_a_pull_that_is_cancelled_leaves_nothing_running(store: Store) -> None:
    """All streams are closed and the partials released: the next pull continues where this one stopped."""

    async def scenario() -> None:
        await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        store.registry.stall = True
        pull = asyncio.create_task(store.catalog().pull(str(SMALL)))
        await store.registry.stalled.wait()
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        assert store.registry.running == 0
        store.registry.stall = False
        assert (await store.catalog().pull(str(SMALL))).name.short == "house/small:q4"

    asyncio.run(scenario())


def test_a_pushed_model_is_the_stored_one(store: Store) -> None:
    """Manifest and digest are the store's, to the byte; whoever pulls it gets the same model, whatever its name was."""

    async def scenario() -> None:
        manifest = await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        await store.catalog().pull(str(SMALL), parse_name("mine"))
        told: list[FetchProgress] = []
        digest = await store.catalog().push(parse_name("mine"), "mem://me/other:1", told.append)
        assert digest == digest_of(manifest)
        assert (await store.registry.manifest(parse_reference("mem://me/other:1"))).data == manifest
        assert (told[0].status, told[-1].status) == ("retrieving manifest", "success")
        status = f"pushing {digest_of(WEIGHTS)[7:19]}"
        counted = [step.completed_bytes or 0 for step in told if step.status == status]
        assert counted == [*range(1 << 20, len(WEIGHTS), 1 << 20), len(WEIGHTS)]
        assert (await store.catalog().pull("mem://me/other:1")).digest == digest

    asyncio.run(scenario())


def test_a_push_sends_only_what_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs of the target, and of the repository that the model came from, are not sent."""

    async def scenario() -> None:
        await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        await store.catalog().pull(str(SMALL))

        async def refuse(*_: object) -> Any:
            raise AssertionError("a blob is sent")

        monkeypatch.setattr(store.registry, "begin", refuse)
        await store.catalog().push(parse_name("house/small:q4"), "mem://me/other")
        await store.catalog().copy(parse_name("house/small:q4"), parse_name("mine"))
        await store.catalog().push(parse_name("mine"), str(SMALL))

    asyncio.run(scenario())


def test_a_push_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob whose line breaks is sent again, with progress that never goes backward; not for ever."""

    async def scenario() -> None:
        await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        await store.catalog().pull(str(SMALL), parse_name("mine"))
        begin, faults = store.registry.begin, [3 << 20, 1 << 20]

        async def breaking(reference: Reference, blob: Digest, size_bytes: int) -> Any:
            writer = await begin(reference, blob, size_bytes)
            write, sent = writer.write, 0

            async def write_some(data: bytes) -> None:
                nonlocal sent
                if faults and sent >= faults[0]:
                    faults.pop(0)
                    raise SourceUnavailable("the line went dead")
                await write(data)
                sent += len(data)

            writer.write = write_some  # type: ignore[method-assign]
            return writer

        monkeypatch.setattr(store.registry, "begin", breaking)
        told: list[FetchProgress] = []
        await store.catalog().push(parse_name("mine"), "mem://me/other", told.append)
        assert faults == []
        counted = [step.completed_bytes or 0 for step in told if step.digest == digest_of(WEIGHTS)]
        assert counted == [*range(1 << 20, len(WEIGHTS), 1 << 20), len(WEIGHTS)]
        faults.extend([0] * 24)
        with pytest.raises(SourceUnavailable):
            await store.catalog().push(parse_name("mine"), "mem://me/third")

    asyncio.run(scenario())


def test_a_push_in_the_other_format(store: Store) -> None:
    """The same weights, texts and parameters, as a ModelPack and back; a model that has the format is sent as it is."""

    async def scenario() -> None:
        texts = [
            (f"{_IMAGE}template", b"{{ .Prompt }}!"),
            (f"{_IMAGE}params", b'{"temperature":0.5}'),
            (f"{_IMAGE}messages", b'[{"role":"user","content":"Hi"}]'),
        ]
        manifest = await push_model(store.registry, SMALL, CONFIG, *LAYERS, *texts)
        catalog, mine = store.catalog(), parse_name("mine")
        record = await catalog.pull(str(SMALL), mine)
        assert await catalog.push(mine, "mem://me/same", manifest_format="ollama") == digest_of(manifest)
        for name, reference, form in (
            (mine, "mem://me/pack:1", "modelpack"),
            (parse_name("me/pack:1"), "mem://me/ollama:1", "ollama"),
        ):
            digest = await catalog.push(name, reference, manifest_format=form)
            found = await catalog.pull(reference)
            assert found.digest == digest
            assert [file.digest for file in found.files_of("weights")] == [digest_of(WEIGHTS)]
            for field in ("format", "template", "system", "parameters", "messages", "licenses", "parameter_size"):
                assert getattr(found, field) == getattr(record, field), field
        assert b"vnd.cncf.model.weight" in (await store.registry.manifest(parse_reference("mem://me/pack:1"))).data
        with pytest.raises(InvalidRequest, match="choose one of ollama, modelpack"):
            await catalog.push(mine, "mem://me/other", manifest_format="zip")

    asyncio.run(scenario())


def test_a_push_that_breaks_publishes_nothing(store: Store) -> None:
    """Uploads are dropped, and there is no manifest; what cannot be pushed is reported before anything is sent."""

    async def scenario() -> None:
        await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        await store.catalog().pull(str(SMALL), parse_name("mine"))
        await store.blobs.delete(digest_of(b"Be brief."))
        with pytest.raises(BlobNotFound):
            await store.catalog().push(parse_name("mine"), "mem://me/other")
        with pytest.raises(NotFound):
            await store.registry.manifest(parse_reference("mem://me/other"))
        with pytest.raises(ModelNotFound):
            await store.catalog().push(parse_name("nobody"), "mem://me/other")
        with pytest.raises(InvalidRequest, match="no registry for 'me/other'"):
            await store.catalog().push(parse_name("mine"), "me/other")

    asyncio.run(scenario())


def test_a_digest_says_which_manifest_it_must_be(store: Store) -> None:
    """By digest, an older manifest than the tag's is pulled; a registry that returns another one is refused."""

    async def scenario() -> None:
        old = await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        await push_model(store.registry, SMALL, CONFIG, (f"{_IMAGE}model", gguf_bytes()))
        record = await store.catalog().pull(f"mem://house/small@{digest_of(old)}")
        assert (record.digest, record.name.tag) == (digest_of(old), digest_of(old)[7:19])
        repository = store.registry._repositories["house/small"]
        repository.manifests[digest_of(b"another")] = repository.manifests[digest_of(old)]
        with pytest.raises(DigestMismatch):
            await store.catalog().pull(f"mem://house/small@{digest_of(b'another')}")

    asyncio.run(scenario())


def test_a_lying_blob_is_refused(store: Store) -> None:
    """Bytes that are not what the manifest says never get into the store."""

    async def scenario() -> None:
        await push_model(store.registry, SMALL, CONFIG, *LAYERS)
        store.registry._repositories["house/small"].blobs[digest_of(b"Be brief.")] = b"Be cruel."
        with pytest.raises(DigestMismatch):
            await store.catalog().pull(str(SMALL))
        assert digest_of(b"Be cruel.") not in await store.digests()
        assert await store.catalog().list() == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("config", "error"), [(b"[]", StorageError), (b'{"model_format":7}', StorageError)], ids=["a list", "a number"]
)
def test_what_cannot_be_read_is_refused_before_its_weights_come(
    store: Store, config: bytes, error: type[Exception]
) -> None:
    """The texts are fetched first; a model that no format can read is never stored."""

    async def scenario() -> None:
        await push_model(store.registry, SMALL, config, *LAYERS)
        with pytest.raises(error):
            await store.catalog().pull(str(SMALL))
        assert digest_of(WEIGHTS) not in {blob for blob, _, _ in store.registry.ranges}

    asyncio.run(scenario())


def test_a_manifest_of_no_known_format_is_refused(store: Store) -> None:
    """Nothing is fetched for it; the message names the formats."""

    async def scenario() -> None:
        await store.registry.put(SMALL, b'{"some":"thing"}', "application/json")
        with pytest.raises(StorageError, match="no known format"):
            await store.catalog().pull(str(SMALL))
        assert store.registry.ranges == []

    asyncio.run(scenario())


def test_what_the_registry_does_not_have(store: Store) -> None:
    """Its own error text reaches the caller."""

    async def scenario() -> None:
        with pytest.raises(NotFound, match=r"mem://house/small:q4"):
            await store.catalog().pull(str(SMALL))

    asyncio.run(scenario())


def test_a_reference_without_a_scheme(store: Store) -> None:
    """Is read by the configured registry, and refused if none is configured."""

    async def scenario() -> None:
        await push_model(store.registry, parse_reference("small"), CONFIG, *LAYERS)
        with pytest.raises(InvalidRequest, match="no source for 'small'"):
            await store.catalog().pull("small")
        assert (await store.catalog("mem").pull("small")).name.short == "small:latest"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "parts", "name"),
    [
        ("small", ("", "", "small", "latest"), "small:latest"),
        ("mem://small:q4", ("mem", "", "small", "q4"), "small:q4"),
        ("mem://house/Small", ("mem", "", "house/Small", "latest"), "house/Small:latest"),
        ("oci://reg.example/house/m:1", ("oci", "reg.example", "house/m", "1"), "reg.example/house/m:1"),
        ("localhost/m", ("", "localhost", "m", "latest"), "localhost/library/m:latest"),
        ("oci://h:5000/a/b:t", ("oci", "h:5000", "a/b", "t"), "h:5000/a/b:t"),
        ("docker://ai/smol:1", ("docker", "docker.io", "ai/smol", "1"), "docker.io/ai/smol:1"),
        ("docker://smol", ("docker", "docker.io", "smol", "latest"), "docker.io/library/smol:latest"),
        ("hf://owner/Repo.x:Q4_K_M", ("hf", "hf.co", "owner/Repo.x", "Q4_K_M"), "hf.co/owner/Repo.x:Q4_K_M"),
    ],
)
def test_the_parts_of_a_reference(text: str, parts: tuple[str, ...], name: str) -> None:
    """Scheme, host, path and tag; the model gets the same name."""
    found = parse_reference(text)
    assert (found.scheme, found.host, found.path, found.tag) == parts
    assert name_from_reference(found).short == name
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "mem://",
            "mem://../x",
            "mem://a//b",
            "mem://a:",
            "mem://a b",
            "MEM://a",
            "mem://a@",
            "mem://a@sha256:12",
        ),
        *("-x", "mem://h:port/x", f"mem://{'a/' * 200}b", "mem://a/b:c/d:e:f", "mem://a\n"),
    ],
)
def test_what_is_no_reference(text: str) -> None:
    """An InvalidRequest that quotes it."""
    with pytest.raises(InvalidRequest):
        parse_reference(text)


def test_a_registry_cannot_give_the_names_of_derived_models(store: Store) -> None:
    """A reference with the host reserved for conversions is refused."""

    async def scenario() -> None:
        with pytest.raises(InvalidRequest):
            await store.catalog().pull(f"mem://{DERIVED_HOST}/house/small")

    asyncio.run(scenario())


def test_an_error_keeps_its_cause() -> None:
    """What fails first among several jobs is raised as it was, once the others have been cancelled."""
    ended: list[str] = []

    async def fail() -> None:
        raise SourceError("broken") from OSError("the cable")

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    with pytest.raises(SourceError) as caught:
        asyncio.run(side_by_side([wait, fail, wait]))
    assert isinstance(caught.value.__cause__, OSError)
    assert ended == ["cleaned up"] * 2


def test_a_path_of_many_parts() -> None:
    """Model names have only one namespace: those of a path are joined. What is too long needs a name."""
    joined = name_from_reference(parse_reference("oci://reg.example/team.one/models/small:q4"))
    assert joined.short == "reg.example/team-one--models/small:q4"
    with pytest.raises(InvalidRequest, match="too long") as caught:
        name_from_reference(parse_reference(f"oci://reg.example/{'a/' * 50}b"))
    assert "--name" in (caught.value.remedy or "")


def test_a_repository_that_is_closed_does_not_close_another(store: Store) -> None:
    """Of two pulls of one blob, the one from a repository that refuses it fails alone."""

    async def scenario() -> None:
        other = parse_reference("mem://closed/small:q4")
        for reference in (SMALL, other):
            await push_model(store.registry, reference, CONFIG, *LAYERS)
        store.registry.closed = other.path
        catalog = store.catalog()
        closed, pulled = asyncio.create_task(catalog.pull(str(other))), asyncio.create_task(catalog.pull(str(SMALL)))
        assert (await pulled).name == parse_name("house/small:q4")
        with pytest.raises(SourceError, match="access denied"):
            await closed

    asyncio.run(scenario())
