"""Split GGUF files: what joining them gives, which parts are refused, and how they come into a store."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from corral.adapters.formats.docker_model import DockerModelFormat
from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.gguf.header import HeaderFile
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.writer import NewTensor, assembled_header, padding
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.registries.memory import MemoryRegistry
from corral.adapters.sources.hugging_face import HuggingFaceSource
from corral.adapters.sources.web import WebSource
from corral.api.cli import main
from corral.core.catalog.catalog import ModelCatalog
from corral.core.catalog.create_calls import CreateCall
from corral.core.errors import CorralError, InvalidModelFile, InvalidRequest, SourceError
from corral.core.models.digests import Digest, digest_of
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.models.references import parse_reference
from corral.core.models.split_names import parse_part_name, whole_name
from corral.core.ports.sources import FetchProgress
from corral.core.random_access import RandomAccessFile
from corral.plugins.hooks import METADATA_READERS
from corral.plugins.testing.fake_hub import serve_repository
from corral.plugins.testing.fake_web_server import FakeWebServer
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes
from corral.plugins.testing.registry import push_blob
from tests.split_gguf import split_gguf, split_keys
from tests.tiny_llama import write_tiny_llama


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few tensors."""
    path = tmp_path_factory.mktemp("whole") / "tiny.F16.gguf"
    path.write_bytes(small_model())
    return path


def small_model(**pairs: Any) -> bytes:
    tensors = [TensorEntry(f"blk.{n}.w", (32, n + 1), data=bytes([0, 0, n, 64]) * 32 * (n + 1)) for n in range(7)]
    return gguf_bytes({**SMALL_MODEL, "general.file_type": 1, **pairs}, tensors)


def parts_of(whole: Path, folder: Path, count: int = 3, **how: Any) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return split_gguf(whole, count, folder=folder, **how)


def joined(parts: list[Path]) -> bytes:
    """The bytes that the reader's plan describes."""
    sources = [RandomAccessFile(part) for part in parts]
    plan = GgufReader().join(sources)
    data = plan.header
    for piece in plan.ranges:
        data += sources[piece.number].read(piece.start, piece.end - piece.start) + bytes(piece.padding_bytes)
    for source in sources:
        source.__exit__()
    assert plan.size_bytes == len(data)
    return data


# ── The format ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("count", "first_is_empty"), [(2, False), (3, True), (7, False), (7, True)])
def test_what_was_split_comes_out_again(whole: Path, tmp_path: Path, count: int, first_is_empty: bool) -> None:
    """Byte for byte, whether the first part has tensors or only the key-values."""
    assert joined(parts_of(whole, tmp_path / "p", count, first_is_empty=first_is_empty)) == whole.read_bytes()


def test_parts_that_are_aligned_in_other_ways(tmp_path: Path) -> None:
    """Only the first part has general.alignment; the others are aligned to 32 bytes, and become what the first is."""
    whole = tmp_path / "m.gguf"
    whole.write_bytes(small_model())
    parts = parts_of(whole, tmp_path / "p")
    wide = tmp_path / "wide"
    wide.write_bytes(gguf_bytes({**SMALL_MODEL, "general.file_type": 1, "general.alignment": 128}, ()))
    with RandomAccessFile(parts[0]) as part, RandomAccessFile(wide) as source:
        pairs = [source.read(start, end - start) for start, end in HeaderFile(source).header().pair_spans.values()]
        tensors = HeaderFile(part).header().tensors
        new = [NewTensor(one.name, one.type_name, one.shape, one.size_bytes) for one in tensors]
        data = assembled_header(3, [*pairs, *split_keys(0, 3, 7)], new, 128)
        for one in tensors:
            data += part.read(one.offset_bytes, one.size_bytes) + bytes(padding(one.size_bytes, 128))
    parts[0].write_bytes(data)
    (tmp_path / "joined.gguf").write_bytes(joined(parts))
    with GgufTensors(whole) as before, GgufTensors(tmp_path / "joined.gguf") as after:
        assert after.pairs["general.alignment"] == 128
        assert after.names == before.names
        assert all((after.dequantized(name) == before.dequantized(name)).all() for name in before.names)


def test_which_part_a_file_is(whole: Path, tmp_path: Path) -> None:
    """A whole file is none, and so is one that says that it is the only part."""
    for number, part in enumerate(parts_of(whole, tmp_path / "p")):
        with RandomAccessFile(part) as source:
            found = GgufReader().part(source)
            assert found is not None
            assert (found.number, found.count) == (number, 3)
    for data in (whole.read_bytes(), small_model(**{"split.count": 1, "split.no": 0})):
        (tmp_path / "one.gguf").write_bytes(data)
        with RandomAccessFile(tmp_path / "one.gguf") as source:
            assert GgufReader().part(source) is None


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        ({"split.count": 3}, "missing split.no"),
        ({"split.count": 3, "split.no": 3}, "invalid shard index 3"),
        ({"split.count": 3, "split.no": "one"}, "invalid shard index one"),
        ({"split.count": "many", "split.no": 0}, "invalid split.count"),
        ({"split.count": 1 << 20, "split.no": 0}, "invalid split.count"),
    ],
)
def test_headers_that_no_part_has(tmp_path: Path, pairs: dict[str, Any], complaint: str) -> None:
    """The error names the file and the key."""
    path = tmp_path / "m-00001-of-00003.gguf"
    path.write_bytes(small_model(**pairs))
    with RandomAccessFile(path) as source, pytest.raises(InvalidModelFile, match=complaint):
        GgufReader().part(source)


def test_names_of_parts() -> None:
    """What llama.cpp writes is one; numbers out of range are not."""
    found = parse_part_name("q/m-v2-00002-of-00003.gguf")
    assert found is not None
    assert (found.stem, found.number, found.count) == ("q/m-v2", 1, 3)
    assert found.siblings == tuple(f"q/m-v2-0000{number}-of-00003.gguf" for number in (1, 2, 3))
    assert whole_name("m-00001-of-00002.gguf") == "m.gguf"
    for name in ("m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-1-of-3.gguf", "m-00001-of-00003.bin"):
        assert parse_part_name(name) is None


# ── Import and create ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def catalog(either_store: tuple[Any, Any]) -> ModelCatalog:
    blobs, manifests = either_store
    return made_catalog(blobs, manifests, METADATA_READERS.guard(GgufReader(), "the reader of a plugin"))


def made_catalog(blobs: Any, manifests: Any, reader: Any = None, **more: Any) -> ModelCatalog:
    return ModelCatalog(
        manifests=manifests,
        blobs=blobs,
        local=blobs,
        formats=[OllamaManifestFormat(), ModelPackFormat(), DockerModelFormat()],
        readers=[reader or GgufReader()],
        **more,
    )


async def digests_in(blobs: Any) -> set[Digest]:
    return {info.digest async for info in blobs.list()}


@pytest.mark.parametrize("given", ["first", "last", "folder"])
def test_an_import_finds_the_other_parts(
    catalog: ModelCatalog, either_store: tuple[Any, Any], whole: Path, tmp_path: Path, given: str
) -> None:
    """From any part, or from their folder: the weights are what was split, with the name and the metadata of the whole,
    and no part is left in the store."""
    parts = parts_of(whole, tmp_path / "p")
    place = {"first": parts[0], "last": parts[-1], "folder": tmp_path / "p"}[given]
    told: list[FetchProgress] = []

    digest = digest_of(whole.read_bytes())

    async def scenario() -> None:
        assert (await catalog.importer.name_of(place)).short == "tiny:f16"
        record = await catalog.import_file(place, None, told.append)
        assert record.name.short == "tiny:f16"
        assert record.weights is not None
        assert record.weights.digest == digest
        metadata = await catalog.metadata(record)
        assert metadata is not None
        assert metadata.parameter_count == 32 * (1 + 2 + 3 + 4 + 5 + 6 + 7)
        assert len(await catalog.tensors(record)) == 7
        others = await digests_in(either_store[0]) - {file.digest for file in record.files}
        assert not others & {digest_of(part.read_bytes()) for part in parts}

    asyncio.run(scenario())
    joining = [one for one in told if one.status == "joining tiny.F16.gguf"]
    assert joining[-1].completed_bytes == joining[-1].total_bytes == whole.stat().st_size
    assert all(part.exists() for part in parts)


@pytest.mark.parametrize(
    ("spoil", "complaint", "remedy"),
    [
        ("missing", r'split GGUF "tiny.F16-00001-of-00003.gguf" has 2 shards, expected 3', "F16-00002-of-00003.gguf"),
        ("whole", r'"tiny.F16-00002-of-00003.gguf" is missing split.count metadata', "no part of the model"),
        ("swapped", r"filename index 1 does not match metadata index 2", "all parts are needed"),
        ("count", r"filename count 3 does not match metadata count 4", "all parts are needed"),
        ("foreign", r'"tiny.F16-00002-of-00003.gguf" is part of another model than "tiny.F16-0', "fetch all parts"),
        ("again", r"both have the tensor 'blk.0.w'", "fetch all parts"),
        ("cut", r"truncated", "fetch"),
        ("renamed", r"must use llama.cpp split filename pattern", "all parts are needed"),
    ],
)
def test_parts_that_are_no_model(
    catalog: ModelCatalog,
    either_store: tuple[Any, Any],
    whole: Path,
    tmp_path: Path,
    spoil: str,
    complaint: str,
    remedy: str,
) -> None:
    """The error names the part and what is wrong with it, in Ollama's words; nothing is stored."""
    parts = parts_of(whole, tmp_path / "p")
    place = parts[0]
    if spoil == "missing":
        parts[1].unlink()
    elif spoil == "whole":
        shutil.copy(whole, parts[1])
    elif spoil == "swapped":
        shutil.copy(parts[2], parts[1])
    elif spoil == "count":
        shutil.copy(parts_of(whole, tmp_path / "q", 4)[1], parts[1])
    elif spoil == "foreign":
        shutil.copy(parts_of(whole, tmp_path / "q", tensors=99)[1], parts[1])
    elif spoil == "again":
        parts = parts_of(whole, tmp_path / "p", first_is_empty=True)
        shutil.copy(parts_of(whole, tmp_path / "q")[0], parts[0])
        place = parts[2]
    elif spoil == "cut":
        parts[1].write_bytes(parts[1].read_bytes()[:-100])
    elif spoil == "renamed":
        place = parts[0].rename(tmp_path / "p" / "mine.gguf")

    async def scenario() -> None:
        with pytest.raises(InvalidModelFile, match=complaint) as caught:
            await catalog.import_file(place)
        assert remedy in str(caught.value.remedy)
        assert await catalog.list() == []
        assert await digests_in(either_store[0]) == set()

    asyncio.run(scenario())


def test_an_import_that_is_cancelled_while_it_joins(
    catalog: ModelCatalog, either_store: tuple[Any, Any], whole: Path, tmp_path: Path
) -> None:
    """Nothing is left."""
    parts = parts_of(whole, tmp_path / "p")

    async def scenario() -> None:
        def cancel(progress: FetchProgress) -> None:
            if progress.completed_bytes:
                task.cancel()

        task = asyncio.ensure_future(catalog.import_file(parts[0], None, cancel))
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert await catalog.list() == []
        assert await digests_in(either_store[0]) == set()

    asyncio.run(scenario())


def test_a_model_of_uploaded_parts(
    catalog: ModelCatalog, either_store: tuple[Any, Any], whole: Path, tmp_path: Path
) -> None:
    """The parts are joined; the manifest's config says from which, and both manifest formats keep that."""
    parts = parts_of(whole, tmp_path / "p")

    async def scenario() -> StoredModel:
        blobs = either_store[0]
        files = {part.name: (await blobs.adopt(part)).digest for part in parts}
        call = CreateCall(name=parse_name("made"), files=files)
        return await catalog.creator.create(call, lambda progress: None)

    record = asyncio.run(scenario())
    assert record.weights is not None
    assert record.weights.digest == digest_of(whole.read_bytes())
    assert list(record.joined_from) == [digest_of(part.read_bytes()) for part in parts]
    for form in (OllamaManifestFormat(), ModelPackFormat()):
        manifest, texts = form.write(record.name, record.content())
        assert form.read(manifest, {digest_of(text): text for text in texts}).joined_from == record.joined_from


def test_the_command_line_creates_from_one_part_or_a_folder(whole: Path, tmp_path: Path) -> None:
    """FROM the first part finds the others, and FROM a folder takes them all."""
    parts = parts_of(whole, tmp_path / "p")

    environment = {"CORRAL_HOST": f"unix:{tmp_path / 'no.sock'}", "CORRAL_MODELS": str(tmp_path / "store")}

    def run(*arguments: str) -> str:
        with CliRunner().isolation(env=environment) as (out, err, _):
            with suppress(SystemExit):
                main(arguments)
            return out.getvalue().decode() + err.getvalue().decode()

    for number, source in enumerate((parts[0], tmp_path / "p")):
        modelfile = tmp_path / f"Modelfile{number}"
        modelfile.write_text(f"FROM {source}\nSYSTEM Be brief.\n")
        run("create", f"made{number}", "-f", str(modelfile))
        assert digest_of(whole.read_bytes()).removeprefix("sha256:") in run("show", f"made{number}", "--modelfile")


# ── Pull ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server() -> Iterator[FakeWebServer]:
    with FakeWebServer() as server:
        yield server


@pytest.fixture
def pull(server: FakeWebServer, either_store: tuple[Any, Any], tmp_path: Path) -> Callable[..., StoredModel]:
    """Pulls a reference into the store, from the hub or from a registry."""
    blobs, manifests = either_store
    environment = {"HOME": str(tmp_path), "HF_ENDPOINT": server.url}

    def pull(reference: str, *registries: Any, default: str | None = None) -> StoredModel:
        catalog = made_catalog(
            blobs,
            manifests,
            sources=[HuggingFaceSource(environment=environment), WebSource("http", environment=environment)],
            registries=registries,
            default_registry=default,
        )
        return asyncio.run(catalog.pull(reference))

    return pull


@pytest.mark.parametrize("wanted", ["", ":F16", ":f16/tiny.F16-00002-of-00003.gguf"])
def test_parts_on_hugging_face(
    pull: Callable[..., StoredModel],
    server: FakeWebServer,
    either_store: tuple[Any, Any],
    whole: Path,
    tmp_path: Path,
    wanted: str,
) -> None:
    """All parts are fetched and joined, beside the projector; the parts go, and a second pull fetches none of them."""
    parts = parts_of(whole, tmp_path / "p")
    files = {f"f16/{part.name}": part.read_bytes() for part in parts}
    serve_repository(server, "o/r", files | {"mmproj.gguf": gguf_bytes({"general.architecture": "clip"})})
    record = pull(f"hf://o/r{wanted}")
    assert record.name.short == "tiny:f16"
    assert record.weights is not None
    assert record.weights.digest == digest_of(whole.read_bytes())
    assert [file.role for file in record.loaded_files] == ["weights", "projector"]
    stored = asyncio.run(digests_in(either_store[0]))
    assert not stored & {digest_of(part.read_bytes()) for part in parts}
    before = len([one for one in server.seen if "-of-00003" in one.path])
    assert pull(f"hf://o/r{wanted}").weights == record.weights
    assert len([one for one in server.seen if "-of-00003" in one.path]) == before


def test_a_part_that_the_repository_lacks(
    pull: Callable[..., StoredModel], server: FakeWebServer, whole: Path, tmp_path: Path
) -> None:
    """The error names it, and nothing is fetched."""
    parts = parts_of(whole, tmp_path / "p")
    serve_repository(server, "o/r", {part.name: part.read_bytes() for part in parts[:2]})
    with pytest.raises(SourceError, match=r"o/r lacks tiny.F16-00003-of-00003.gguf"):
        pull("hf://o/r")
    assert not [one for one in server.seen if "resolve" in one.path]


def test_parts_on_a_web_server(
    pull: Callable[..., StoredModel], server: FakeWebServer, whole: Path, tmp_path: Path
) -> None:
    """The address of any part stands for all, with its query; one that is missing is named, and nothing is fetched."""
    parts = parts_of(whole, tmp_path / "p")
    server.files |= {f"/a/{part.name}": part.read_bytes() for part in parts}
    address = f"{server.url}/a/{parts[1].name}?key=1"
    record = pull(f"{address}#{digest_of(parts[1].read_bytes()).replace(':', '=')}")
    assert record.name.short == "tiny:f16"
    assert record.weights is not None
    assert record.weights.digest == digest_of(whole.read_bytes())
    assert all(request.path.endswith("?key=1") for request in server.seen)
    del server.files[f"/a/{parts[2].name}"]
    server.seen.clear()
    with pytest.raises(SourceError, match=r"there is no .*/a/tiny.F16-00003-of-00003.gguf"):
        pull(address)
    assert {request.headers["range"] for request in server.seen} == {"bytes=0-0"}
    with pytest.raises(InvalidRequest, match="one of 99999 parts"):
        pull(f"{server.url}/a/tiny-00001-of-99999.gguf")


def test_parts_that_the_registry_of_hugging_face_refuses(
    pull: Callable[..., StoredModel], server: FakeWebServer, whole: Path, tmp_path: Path
) -> None:
    """Its registry has no manifests of split files, so ``hf.co/OWNER/REPO`` falls back on the files."""
    parts = parts_of(whole, tmp_path / "p")
    serve_repository(server, "o/r", {part.name: part.read_bytes() for part in parts})
    registry = MemoryRegistry("oci")
    record = pull("hf.co/o/r:F16", registry, default="oci")
    assert record.name.short == "hf.co/o/r:F16"
    assert record.weights is not None
    assert record.weights.digest == digest_of(whole.read_bytes())


async def push_parts(registry: MemoryRegistry, address: str, parts: list[bytes]) -> None:
    """An artifact of Docker Model Runner, which has a layer for each part."""
    reference = parse_reference(address, scheme="oci")
    kind = "application/vnd.docker.ai.model.config.v0.1+json"
    layers = [("application/vnd.docker.ai.gguf.v3", part) for part in parts]
    described = []
    for media_type, data in ((kind, b'{"config": {"format": "gguf"}}'), *layers):
        digest = await push_blob(registry, reference, data)
        described.append({"mediaType": media_type, "digest": digest, "size": len(data)})
    media_type = "application/vnd.oci.image.manifest.v1+json"
    head = {"schemaVersion": 2, "mediaType": media_type, "config": described[0], "layers": described[1:]}
    await registry.put(reference, msgspec.json.encode(head), media_type)


def test_parts_in_a_registry(
    pull: Callable[..., StoredModel], either_store: tuple[Any, Any], whole: Path, tmp_path: Path
) -> None:
    """A manifest with a layer for each part becomes a model with one; the next pull does not fetch the parts again."""
    parts = [part.read_bytes() for part in parts_of(whole, tmp_path / "p")]
    registry = MemoryRegistry("oci")
    asyncio.run(push_parts(registry, "host.example/a/b:c", [parts[0], *reversed(parts[1:])]))
    record = pull("oci://host.example/a/b:c", registry)
    assert record.weights is not None
    assert record.weights.digest == digest_of(whole.read_bytes())
    assert (record.family, record.quantization) == ("llama", "F16")
    assert not asyncio.run(digests_in(either_store[0])) & set(map(digest_of, parts))
    fetched = CountingRegistry(registry)
    assert pull("oci://host.example/a/b:c", fetched).weights == record.weights
    assert not set(fetched.blobs) & set(map(digest_of, parts))


class CountingRegistry:
    """A registry that notes which blobs are fetched."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self._registry = registry
        self.blobs: list[Digest] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def fetch(self, reference: Any, digest: Digest, *rest: Any) -> Any:
        self.blobs.append(digest)
        return self._registry.fetch(reference, digest, *rest)


def test_a_registry_that_lacks_a_part(
    pull: Callable[..., StoredModel], either_store: tuple[Any, Any], whole: Path, tmp_path: Path
) -> None:
    """The error says which, and no model is created."""
    parts = [part.read_bytes() for part in parts_of(whole, tmp_path / "p")]
    registry = MemoryRegistry("oci")
    asyncio.run(push_parts(registry, "host.example/a/b:c", parts[:2]))
    with pytest.raises(CorralError, match="has 2 shards, expected 3") as caught:
        pull("oci://host.example/a/b:c", registry)
    assert "part 3 of 3" in str(caught.value.remedy)
    assert asyncio.run(made_catalog(*either_store).list()) == []


# ── llama.cpp ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_llama_cpp_loads_the_parts_of_these_tests(tmp_path: Path) -> None:
    """What these tests split is what llama.cpp splits: it finds all parts from the first."""
    native = pytest.importorskip("corral.adapters.engines.llama_cpp.native")
    whole = write_tiny_llama(tmp_path / "tiny.gguf")
    parts = parts_of(whole, tmp_path / "p", 3)

    def size(path: Path) -> int:
        model = native.LlamaModel(str(path), gpu_layers=0, main_gpu=None, use_mmap=None, on_progress=lambda share: None)
        with closing(model):
            return int(model.size_bytes)

    assert size(parts[0]) == size(whole)
    assert joined(parts) == whole.read_bytes()
