"""Hostile and broken models: manifests, small files and folders that are not what they claim to be."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.metadata_cache import FilesystemMetadataCache
from corral.core.catalog.catalog import ModelCatalog
from corral.core.errors import CorralError, InvalidModelFile, InvalidRequest, ModelNotFound, StorageError
from corral.core.models.digests import digest_of
from corral.core.models.model import ModelMetadata
from corral.core.models.names import parse_name
from corral.core.models.unused_parts import unused_parts
from corral.core.random_access import RandomAccess, RandomAccessFile
from corral.core.regular_files import open_regular
from corral.plugins.testing.gguf import SMALL_MODEL, Tagged, gguf_bytes

T = TypeVar("T")

_PACK = "application/vnd.cncf.model."
_NOT_UTF8 = b"\xff\xfe"


def read_metadata(path: Path) -> ModelMetadata:
    with RandomAccessFile(path) as source:
        return GgufReader().read(source)


def catalog_of(root: Path, **more: Any) -> ModelCatalog:
    blobs = FilesystemBlobs(root)
    return ModelCatalog(
        manifests=FilesystemManifests(root),
        blobs=blobs,
        local=blobs,
        formats=[OllamaManifestFormat(), ModelPackFormat()],
        readers=more.pop("readers", [GgufReader()]),
        **more,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that holds one sound model, ``sound``."""
    file = tmp_path / "sound.gguf"
    file.write_bytes(gguf_bytes(SMALL_MODEL))
    store = tmp_path / "models"
    asyncio.run(catalog_of(store).import_file(file, parse_name("sound")))
    return store


def put(root: Path, name: str, manifest: bytes) -> None:
    """A manifest as another program would write it."""
    path = root.joinpath("manifests", *parse_name(name).parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest)


def blob(root: Path, data: bytes, **more: Any) -> dict[str, Any]:
    """A blob in the store, as a manifest's layer."""
    digest = digest_of(data)
    (root / "blobs" / digest.replace(":", "-")).write_bytes(data)
    return {"digest": digest, "size": len(data), **more}


def pack(config: dict[str, Any], *layers: dict[str, Any]) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "artifactType": f"{_PACK}manifest.v1+json",
            "config": {"mediaType": f"{_PACK}config.v1+json", **config},
            "layers": layers,
        }
    ).encode()


def layer(described: dict[str, Any], path: str, kind: str = "weight.config") -> dict[str, Any]:
    return {
        "mediaType": f"{_PACK}{kind}.v1.raw",
        "annotations": {"org.cncf.model.filepath": path},
        **described,
    }


def names(root: Path) -> list[str]:
    return [record.name.short for record in asyncio.run(catalog_of(root).list())]


@pytest.mark.parametrize(
    "manifest",
    [
        b'{"config": {"mediaType": "' + _NOT_UTF8 + b'"}}',
        b"[" * 100_000,
        b'{"schemaVersion": 1e999}',
        b"\x00" * 1000,
        b"",
    ],
)
def test_a_manifest_that_is_no_json_hides_no_other(root: Path, manifest: bytes) -> None:
    """It is left out of the list, and asking for it says that it cannot be read."""
    put(root, "broken", manifest)
    assert names(root) == ["sound:latest"]
    with pytest.raises(StorageError, match="broken"):
        asyncio.run(catalog_of(root).get(parse_name("broken")))


@pytest.mark.parametrize("path", ["genai_config.json", "tokenizer_config.json", "params.json", "messages.json"])
@pytest.mark.parametrize("text", [b'{"model": "' + _NOT_UTF8 + b'"}', b'{"a":' * 5000, b"[]]", b'{"model": [1]}'])
def test_a_small_file_that_is_garbage(root: Path, path: str, text: bytes) -> None:
    """Whatever a small file contains, models can be listed, and only our own errors are raised."""
    put(root, "broken", pack(blob(root, b'{"config": {"format": "onnx"}}'), layer(blob(root, text), path)))
    assert "sound:latest" in names(root)
    try:
        record = asyncio.run(catalog_of(root).get(parse_name("broken")))
    except CorralError:
        return
    assert record.format == "onnx"


# ── Manifests of folder models ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        "../up",
        "a/../../up",
        "/etc/passwd",
        "a\\..\\b",
        "C:x",
        "a\0b",
        "a//b",
        "./a",
        "",
        "a/",
        "CON",
        "x." * 99,
        "a\nb",
    ],
)
def test_a_path_that_leads_elsewhere(root: Path, path: str) -> None:
    """The manifest is refused, and no part of it becomes a file."""
    put(root, "evil", pack(blob(root, b"{}"), layer(blob(root, b"data"), path)))
    with pytest.raises(StorageError, match="not a valid path for a model's file"):
        asyncio.run(catalog_of(root).get(parse_name("evil")))
    assert names(root) == ["sound:latest"]


@pytest.mark.parametrize("paths", [("a", "a"), ("Model.onnx", "model.onnx"), ("a", "a/b"), ("a/b", "A")])
def test_paths_that_cannot_lie_in_one_folder(root: Path, paths: tuple[str, str]) -> None:
    """Two that differ in case only, and one that is a folder of another, are refused."""
    layers = [layer(blob(root, path.encode()), path, "weight") for path in paths]
    put(root, "evil", pack(blob(root, b'{"config": {}}'), *layers))
    with pytest.raises(StorageError, match="occurs twice"):
        asyncio.run(catalog_of(root).get(parse_name("evil")))


@pytest.mark.parametrize(
    "digest", ["sha256:abc", "sha256:" + "0" * 65, "sha512:" + "0" * 128, "sha256:../../../etc/passwd", "", "sha256-x"]
)
def test_a_digest_that_is_none(root: Path, digest: str) -> None:
    """It never becomes a path."""
    for manifest in (
        pack({"digest": digest, "size": 2}),
        pack(blob(root, b'{"config": {}}'), layer({"digest": digest, "size": 1}, "model.onnx", "weight")),
    ):
        put(root, "evil", manifest)
        with pytest.raises(StorageError, match="malformed"):
            asyncio.run(catalog_of(root).get(parse_name("evil")))


def test_thousands_of_layers(root: Path) -> None:
    """They are read as long as the manifest is within its size limit."""
    file = blob(root, b"data")
    manifest = pack(blob(root, b'{"config": {}}'), *(layer(file, f"{place}", "weight") for place in range(10_000)))
    put(root, "many", manifest)
    record = asyncio.run(catalog_of(root).get(parse_name("many")))
    assert len(record.files) == 10_000


def test_small_layers_that_are_not_small(root: Path) -> None:
    """Reading each file and all files together is limited, whatever sizes the manifest claims."""
    one = blob(root, bytes(17 << 20)) | {"size": 1}
    put(root, "evil", pack(blob(root, b'{"config": {}}'), layer(one, "LICENSE", "doc")))
    with pytest.raises(StorageError, match="larger than a text layer"):
        asyncio.run(catalog_of(root).get(parse_name("evil")))
    some = [layer(blob(root, bytes(15 << 20) + bytes([place])), f"{place}/LICENSE", "doc") for place in range(5)]
    put(root, "evil", pack(blob(root, b'{"config": {}}'), *some))
    with pytest.raises(StorageError, match="larger than a text layer"):
        asyncio.run(catalog_of(root).get(parse_name("evil")))


def test_names_of_derived_models_are_not_for_callers(root: Path, tmp_path: Path) -> None:
    """No one can place their own model where a converted one is looked up."""
    catalog = catalog_of(root)
    record = asyncio.run(catalog.get(parse_name("sound")))
    assert record.weights is not None
    name = parse_name(f"corral.derived/{record.weights.digest.partition(':')[2]}/onnx:0123456789ab")
    for attempt in (
        catalog.copy(parse_name("sound"), name),
        catalog.import_file(tmp_path / "sound.gguf", name),
        catalog.pull("pypi://anything", name),
        catalog.add_upstream(name, ["http://127.0.0.1:9"]),
    ):
        with pytest.raises(InvalidRequest, match="reserves for itself"):
            asyncio.run(attempt)
    assert not (root / "manifests" / "corral.derived").exists()


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that importing takes for a sentence encoder."""
    made = tmp_path / "encoder"
    made.mkdir()
    (made / "model.onnx").write_bytes(b"\x08\x08weights")
    (made / "tokenizer.json").write_bytes(b"{}")
    return made


def imported(root: Path, folder: Path) -> list[str | None]:
    record = asyncio.run(catalog_of(root).import_file(folder, parse_name("encoder")))
    return [file.path for file in record.files]


@pytest.mark.parametrize(
    ("target", "text"),
    [("/etc/hostname", "outside of the folder"), ("nowhere", "broken link"), ("c.json", "broken link")],
)
def test_a_folder_with_a_link(root: Path, folder: Path, target: str, text: str) -> None:
    """One that leads out, to nothing, or in a circle is named, and nothing is imported."""
    (folder / "c.json").symlink_to(target)
    with pytest.raises(InvalidModelFile, match=text):
        imported(root, folder)
    assert names(root) == ["sound:latest"]


def test_a_folder_with_what_is_no_file(root: Path, folder: Path) -> None:
    """Pipes, sockets, links to other folders, code and hidden files are ignored, and nothing blocks on them."""
    os.mkfifo(folder / "config.json")
    os.mkfifo(folder / "genai_config.json")
    (folder / "more").symlink_to("/etc")
    (folder / ".env").write_text("KEY=1")
    (folder / "evil.so").write_bytes(b"code")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "modules.json"))
        assert imported(root, folder) == ["model.onnx", "tokenizer.json"]


@pytest.mark.parametrize(
    ("name", "size_bytes"),
    [("genai_config.json", 200 << 30), ("config.json", 17 << 20), ("tokenizer.json", 200 << 30), ("LICENSE", 17 << 20)],
)
def test_a_folder_with_a_file_that_is_too_large(root: Path, folder: Path, name: str, size_bytes: int) -> None:
    """It is refused because of its size before it is read, and the store is unchanged."""
    with (folder / name).open("wb") as file:
        file.truncate(size_bytes)
    before = sorted(path.name for path in (root / "blobs").iterdir())
    with pytest.raises(CorralError, match=r"bytes|larger"):
        imported(root, folder)
    assert sorted(path.name for path in (root / "blobs").iterdir()) == before
    assert names(root) == ["sound:latest"]


@pytest.mark.parametrize(
    ("name", "text"), [("messages.json", b"{}"), ("params.json", b"[1]"), ("params.json", b"\xff")]
)
def test_a_folder_that_could_not_be_read_again(root: Path, folder: Path, name: str, text: bytes) -> None:
    """The manifest is checked with its files before the model gets its name."""
    (folder / name).write_bytes(text)
    with pytest.raises(StorageError, match=name):
        imported(root, folder)
    assert not (root / "manifests/registry.ollama.ai/library/encoder").exists()


@pytest.mark.parametrize("name", [b"\xff.json", b"a\nb.json", b"nul.json", b"a:b.json"])
def test_a_folder_with_a_name_that_no_manifest_may_have(root: Path, folder: Path, name: bytes) -> None:
    """The error names it in a printable form."""
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"{}")
    with pytest.raises(InvalidModelFile, match="not a valid path for a model's file") as caught:
        imported(root, folder)
    assert str(caught.value).isprintable()


# ── What is no file ───────────────────────────────────────────────────────────────────────────────────────────────


def place(root: Path, name: str) -> Path:
    """Where a model's manifest is, or would be."""
    path = root.joinpath("manifests", *parse_name(name).parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def odd(path: Path, kind: str) -> None:
    """Puts something at `path` that is not a regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{short}/s")  # the path of a socket has a hundred characters at most
            os.rename(f"{short}/s", path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")


async def within(seconds: float, work: Awaitable[T]) -> T:
    async with asyncio.timeout(seconds):
        return await work


@pytest.mark.parametrize("kind", ["pipe", "socket", "loop", "device", "dangling"])
def test_a_manifest_that_is_no_file(root: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing blocks on it; it is missing from the list, with one warning at most, and can be deleted."""
    odd(place(root, "odd"), kind)
    catalog = catalog_of(root)

    async def scenario() -> None:
        for _ in range(20):  # more than there are threads to hold
            assert [record.name.short for record in await catalog.list()] == ["sound:latest"]
            with pytest.raises(CorralError):
                await catalog.get(parse_name("odd"))
        assert await catalog.delete(parse_name("odd")) is None
        with pytest.raises(ModelNotFound):
            await catalog.delete(parse_name("odd"))

    asyncio.run(within(10, scenario()))
    assert caplog.text.count("skipping a manifest") <= 1
    assert not os.path.lexists(root / "manifests/registry.ollama.ai/library/odd")
    assert names(root) == ["sound:latest"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "loop", "dangling"])
def test_what_is_no_file_stops_no_deletion(root: Path, kind: str) -> None:
    """It names no blob, so a deleted model's blobs are still removed."""
    odd(place(root, "odd"), kind)
    asyncio.run(catalog_of(root).delete(parse_name("sound")))
    assert list((root / "blobs").iterdir()) == []


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_circle_among_the_folders(root: Path, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """A looping link in place of a host, a namespace or a model is skipped with a warning."""
    parts = parse_name("odd.example/space/model:tag").parts[:level]
    path = root.joinpath("manifests", *parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path)
    assert names(root) == ["sound:latest"]
    assert caplog.text.count("skipping a manifest") == 1
    asyncio.run(catalog_of(root).delete(parse_name("sound")))
    assert list((root / "blobs").iterdir()) == []


def test_a_folder_that_may_not_be_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are listed, unless it holds them all; while it cannot be read nothing is deleted but names, for what
    is in it may name any blob."""
    closed = place(root, "closed:latest").parent
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if os.fspath(path) == os.fspath(closed):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    catalog = catalog_of(root)
    closed = root / "manifests"
    with pytest.raises(StorageError, match=r"cannot list .*manifests: Permission denied"):
        names(root)
    closed = place(root, "closed:latest").parent
    assert names(root) == ["sound:latest"]
    assert "Permission denied" in caplog.text
    before = sorted((root / "blobs").iterdir())
    asyncio.run(catalog.delete(parse_name("sound")))
    assert sorted((root / "blobs").iterdir()) == before
    assert names(root) == []


@pytest.mark.parametrize("kind", ["pipe", "socket", "loop", "device", "folder", "dangling"])
@pytest.mark.parametrize("part", ["weights", "config"])
def test_a_blob_that_is_no_file(root: Path, part: str, kind: str) -> None:
    """Only its model fails, with a clear error; the other is listed and described, and both can be deleted."""
    file = root.parent / "bad.gguf"
    file.write_bytes(gguf_bytes({**SMALL_MODEL, "general.name": "Bad"}))
    bad = asyncio.run(catalog_of(root).import_file(file, parse_name("bad")))
    assert bad.weights is not None
    manifest = json.loads(place(root, "bad").read_bytes())
    digest = bad.weights.digest if part == "weights" else manifest["config"]["digest"]
    path = root / "blobs" / digest.replace(":", "-")
    path.unlink()
    odd(path, kind)
    catalog = catalog_of(root)

    async def scenario() -> None:
        records = {record.name.short: record for record in await catalog.list()}
        assert set(records) == ({"bad:latest", "sound:latest"} if part == "weights" else {"sound:latest"})
        for record in records.values():
            metadata = await catalog.readable_metadata(record)
            assert (metadata is None) == (record.name.model == "bad")
            assert ("completion" in await catalog.capabilities(record)) == (record.name.model == "sound")
        if part == "weights":
            for question in (catalog.metadata, catalog.tensors):
                with suppress(CorralError):
                    await question(records["bad:latest"])
            with pytest.raises(CorralError):
                async with catalog.loadable_files(records["bad:latest"]):
                    pass
        await catalog.delete(parse_name("bad"))
        assert [record.name.short for record in await catalog.list()] == ["sound:latest"]
        await catalog.delete(parse_name("sound"))

    asyncio.run(within(10, scenario()))


def test_weights_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists show the model without the facts from its weights; showing it says that they cannot be read."""
    catalog = catalog_of(root)
    [record] = asyncio.run(catalog.list())
    assert record.weights is not None
    hidden = record.weights.digest.replace(":", "-")

    def refuse(path: Path) -> Any:
        if path.name == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return open_regular(path)

    monkeypatch.setattr("corral.adapters.stores.filesystem.open_regular", refuse)
    assert asyncio.run(catalog.readable_metadata(record)) is None
    assert asyncio.run(catalog.capabilities(record)) == ()
    with pytest.raises(StorageError, match="Permission denied"):
        asyncio.run(catalog.metadata(record))


def test_a_blob_whose_status_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list still shows the model."""
    record = asyncio.run(catalog_of(root).get(parse_name("sound")))
    assert record.weights is not None
    hidden = root / "blobs" / record.weights.digest.replace(":", "-")
    status = Path.stat

    def refusing(path: Path, **more: Any) -> os.stat_result:
        if path == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return status(path, **more)

    monkeypatch.setattr(Path, "stat", refusing)
    catalog = catalog_of(root)
    [listed] = asyncio.run(catalog.list())
    assert asyncio.run(catalog.readable_metadata(listed)) is None


@pytest.mark.parametrize("kind", ["pipe", "socket", "loop", "folder"])
@pytest.mark.parametrize("folder", ["metadata", "adopted"])
def test_a_note_of_our_own_that_is_no_file(tmp_path: Path, root: Path, folder: str, kind: str) -> None:
    """Cached facts about a blob are worked out again."""
    record = asyncio.run(catalog_of(root).get(parse_name("sound")))
    assert record.weights is not None
    note = root / ".corral" / folder / (record.weights.digest[7:] + (".json" if folder == "adopted" else ""))
    note.parent.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    odd(note, kind)
    catalog = catalog_of(root, cache=FilesystemMetadataCache(root))
    metadata = asyncio.run(within(10, catalog.metadata(record)))
    assert metadata is not None


@pytest.mark.parametrize("modified_s", [-(2**40), 2**55])
def test_a_manifest_from_another_age(root: Path, modified_s: int) -> None:
    """Its time is always a valid date."""
    path = place(root, "sound")
    try:
        os.utime(path, (0, modified_s))
    except OverflowError:
        pytest.skip("this file system has no such time")
    [record] = asyncio.run(catalog_of(root).list())
    assert datetime.fromtimestamp(record.modified_at, UTC).year <= 9999


# ── Numbers and texts of headers and manifests ────────────────────────────────────────────────────────────────────

_HUGE = Tagged(10, 2**63)


@pytest.mark.parametrize(
    "pairs",
    [
        {"llama.block_count": 4096, "llama.embedding_length": _HUGE},
        {"llama.embedding_length": Tagged(10, 2**64 - 1)},
        {"llama.block_count": _HUGE},
        {"llama.context_length": _HUGE},
        {"llama.attention.head_count": _HUGE},
        {"llama.attention.head_count_kv": _HUGE, "llama.attention.key_length": _HUGE},
        {"llama.attention.sliding_window": _HUGE},
        {"llama.pooling_type": _HUGE},
        {"llama.vocab_size": _HUGE},
        {"general.architecture": "x" * 5_000_000},
        {"tokenizer.chat_template": "x" * 5_000_000},
    ],
)
def test_a_header_that_no_model_has(root: Path, tmp_path: Path, pairs: dict[str, Any]) -> None:
    """It is refused, naming the key; one that another program put into the store is listed without its metadata."""
    data = gguf_bytes({**SMALL_MODEL, **pairs})
    file = tmp_path / "bad.gguf"
    file.write_bytes(data)
    with pytest.raises(InvalidModelFile, match=f"{'|'.join(pairs)}.*which no real model has"):
        asyncio.run(catalog_of(root).import_file(file, parse_name("bad")))
    assert names(root) == ["sound:latest"]
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", **blob(root, b'{"model_format": "gguf"}')}
    weights = {"mediaType": "application/vnd.ollama.image.model", **blob(root, data)}
    put(root, "bad", json.dumps({"schemaVersion": 2, "config": config, "layers": [weights]}).encode())
    catalog = catalog_of(root, cache=FilesystemMetadataCache(root))
    records = asyncio.run(catalog.list())
    assert len(records) == 2
    found = {record.name.model: asyncio.run(catalog.readable_metadata(record)) for record in records}
    assert found["bad"] is None
    assert found["sound"] is not None


@pytest.mark.parametrize(
    "pairs",
    [
        {"llama.context_length": Tagged(5, -5), "llama.block_count": Tagged(11, -1), "llama.embedding_length": 0},
        {"llama.context_length": Tagged(6, float("nan")), "llama.rope.freq_base": Tagged(6, float("inf"))},
        {"llama.context_length": "many", "llama.block_count": [1, 2], "general.name": 7},
        {"general.file_type": Tagged(10, 2**64 - 1), "tokenizer.ggml.bos_token_id": Tagged(10, 2**64 - 1)},
        {"general.name": "n" * 5_000_000, "x": Tagged(10, 2**64 - 1), "y": Tagged(11, -(2**63))},
    ],
)
def test_a_header_that_is_odd(root: Path, tmp_path: Path, pairs: dict[str, Any]) -> None:
    """Whatever is usable in it is used and cached, and every reply about it can be encoded."""
    (tmp_path / "odd.gguf").write_bytes(gguf_bytes({**SMALL_MODEL, **pairs}))
    cache = FilesystemMetadataCache(root)
    catalog = catalog_of(root, cache=cache)
    record = asyncio.run(catalog.import_file(tmp_path / "odd.gguf", parse_name("odd")))
    metadata = asyncio.run(catalog.metadata(record))
    assert metadata is not None
    assert record.weights is not None
    assert asyncio.run(cache.get(record.weights.digest)) is not None
    assert len(msgspec.json.encode(metadata)) < 100_000
    for verbose in (False, True):
        msgspec.json.encode(asyncio.run(catalog.describe(record, verbose=verbose)))


def test_a_metadata_cache_holds_what_it_can(root: Path) -> None:
    """A number that does not fit is not remembered, and nothing is raised."""
    cache, digest = FilesystemMetadataCache(root), digest_of(b"any")
    metadata = ModelMetadata(
        format="x", architecture="x", file_type="", parameter_count=2**70, tensor_bytes=0, name="\ud800"
    )
    asyncio.run(cache.put(digest, metadata))
    assert asyncio.run(cache.get(digest)) is None


def test_a_reader_that_fails_hides_no_model(root: Path) -> None:
    """Whatever a plugin's reader raises, the model is listed, and the error for showing it names the file."""

    class Broken(GgufReader):
        def read(self, source: RandomAccess) -> ModelMetadata:
            raise OverflowError("a plugin's fault")

    catalog = catalog_of(root, readers=[Broken()])
    [record] = asyncio.run(catalog.list())
    assert asyncio.run(catalog.readable_metadata(record)) is None
    with pytest.raises(InvalidModelFile, match="the gguf reader failed: a plugin's fault"):
        asyncio.run(catalog.metadata(record))


def memory_of(code: str, *arguments: str) -> int:
    """The peak memory of a process that runs `code`, in bytes, beyond what importing took."""
    measured = "import resource; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n{}\n" + (
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    head = "import sys\nfrom pathlib import Path\nfrom corral.adapters.formats.gguf import GgufReader\n"
    head += "from corral.core.errors import InvalidModelFile\nfrom corral.core.random_access import RandomAccessFile\n"
    process = subprocess.run(
        [sys.executable, "-c", head + measured.format(code), *arguments], capture_output=True, text=True, check=True
    )
    return int(process.stdout)


def header_of(pair_count: int = 0, tensor_count: int = 0, body: bytes = b"") -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensor_count, pair_count) + body


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            lambda: header_of(
                1_000_000, body=b"".join(struct.pack("<Q6sIB", 6, b"%06d" % n, 7, 1) for n in range(10**6))
            ),
            "key-value pairs; at most",
        ),
        (
            lambda: header_of(
                tensor_count=500_000,
                body=b"".join(struct.pack("<Q6sIQIQ", 6, b"%06d" % n, 1, 0, 0, 0) for n in range(500_000)),
            ),
            "tensors; at most",
        ),
        (lambda: header_of(1, body=struct.pack("<Q1sIIQ", 1, b"a", 9, 8, 5_000_000) + bytes(40_000_000)), "strings"),
        (
            lambda: header_of(
                40, body=b"".join(struct.pack("<Q6sIQ", 6, b"%06d" % n, 8, 1 << 20) + bytes(1 << 20) for n in range(40))
            ),
            "keys, strings and names",
        ),
    ],
)
def test_a_header_without_measure(tmp_path: Path, data: Callable[[], bytes], complaint: str) -> None:
    """It is refused because of the counts it claims, using little memory."""
    path = tmp_path / "big.gguf"
    path.write_bytes(data())
    with pytest.raises(InvalidModelFile, match=complaint):
        read_metadata(path)
    code = "try: GgufReader().read(RandomAccessFile(sys.argv[1]))\nexcept InvalidModelFile: pass"
    assert memory_of(code, str(path)) < 80_000_000


def test_showing_everything_is_bounded(tmp_path: Path) -> None:
    """If a thousand arrays are each just short enough to be shown, the last ones are left out."""
    array = struct.pack("<IIQ", 9, 7, 100_000) + bytes(100_000)
    body = b"".join(struct.pack("<Q6s", 6, b"%06d" % n) + array for n in range(200))
    body = struct.pack("<Q20sIQ5s", 20, b"general.architecture", 8, 5, b"llama") + body
    path = tmp_path / "big.gguf"
    path.write_bytes(header_of(201, body=body))
    with RandomAccessFile(path) as source:
        described = GgufReader().describe(source, verbose=True)
    shown = [value for value in described.values() if isinstance(value, list)]
    assert 1 < len(shown) < 200
    with RandomAccessFile(path) as source:
        brief = GgufReader().describe(source, verbose=False)
    assert not any(isinstance(value, list) for value in brief.values())


def ollama(root: Path, config: bytes, *layers: tuple[str, bytes]) -> bytes:
    """A manifest as Ollama writes it, its blobs in the store."""
    described = [{"mediaType": f"application/vnd.ollama.image.{kind}", **blob(root, data)} for kind, data in layers]
    head = {"mediaType": "application/vnd.docker.container.image.v1+json", **blob(root, config)}
    return json.dumps({"schemaVersion": 2, "config": head, "layers": described}).encode()


@pytest.mark.parametrize(
    "config",
    [
        b'{"context_length": 1' + b"0" * 30 + b"}",
        b'{"embedding_length": -1}',
        b'{"model_family": "' + b"x" * 1_000_000 + b'"}',
        b'{"model_families": [' + b'"x",' * 100_000 + b'"x"]}',
        b'{"capabilities": [' + b'"x",' * 100_000 + b'"x"]}',
        b'{"remote_host": "' + b"x" * 1_000_000 + b'", "remote_model": "m"}',
        b'{"corral": {"remote_replicas": [' + b'"x",' * 100_000 + b'"x"]}}',
    ],
)
def test_a_config_that_no_list_could_show(root: Path, config: bytes) -> None:
    """Its model is left out, the other is listed, and it can be deleted."""
    put(root, "bad", ollama(root, config))
    assert names(root) == ["sound:latest"]
    asyncio.run(catalog_of(root).delete(parse_name("bad")))


def test_layers_that_claim_more_than_there_is(root: Path) -> None:
    """The sum of their sizes stays a number that every reply can contain, or the model is refused."""
    weights = blob(root, b"w", mediaType="application/vnd.ollama.image.model")
    config = blob(root, b"{}", mediaType="application/vnd.docker.container.image.v1+json")
    for size in (2**70, 2**63, -1):
        layers = [weights | {"size": size}]
        put(root, "bad", json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode())
        assert names(root) == ["sound:latest"]
    layers = [weights | {"size": 2**46}] * 20_000
    put(root, "large", json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode())
    record = asyncio.run(catalog_of(root).get(parse_name("large")))
    msgspec.json.encode(record)


@pytest.mark.parametrize("value", [b"1" + b"0" * 30, b"-1" + b"0" * 30, b"1e999", b"[9" + b"9" * 30 + b"]"])
def test_parameters_beyond_64_bits(root: Path, value: bytes) -> None:
    """They are read as values that every reply can contain, or their model is left out."""
    put(root, "bad", ollama(root, b"{}", ("params", b'{"num_ctx": ' + value + b"}")))
    described = layer(blob(root, b'{"num_ctx": ' + value + b"}"), "params.json")
    put(root, "pack", pack(blob(root, b'{"config": {}}'), described))
    assert "sound:latest" in names(root)
    msgspec.json.encode(asyncio.run(catalog_of(root).list()))


@pytest.mark.parametrize("text", ["{{" * 2_000_000, "{{ ." * 1_000_000, "{{" + "$.Tool" * 600_000])
def test_a_template_that_never_closes_its_brackets(root: Path, text: str) -> None:
    """The model's capabilities are found in one pass over it."""
    put(root, "bad", ollama(root, b"{}", ("template", text.encode())))
    catalog = catalog_of(root)
    record = asyncio.run(catalog.get(parse_name("bad")))
    asyncio.run(within(10, catalog.capabilities(record)))


def test_the_small_files_of_a_folder_make_no_values(root: Path) -> None:
    """Megabytes of unrequested objects are skipped while reading, whatever key they are under."""
    filler = b'"x": [' + b"{}," * 2_000_000 + b'{}], "model": {"type": "llama", "context_length": 128}}'
    manifest = pack(
        blob(root, b'{"config": {"format": "onnx"}}'), layer(blob(root, b"{" + filler), "genai_config.json")
    )
    put(root, "big", manifest)
    tracemalloc.start()
    record = asyncio.run(catalog_of(root).get(parse_name("big")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (record.family, record.context_length) == ("llama", 128)
    assert peak < 4 * len(filler)


@pytest.mark.parametrize(
    ("text", "family", "length"),
    [
        (b'{"model": {"type": "%s"}}' % (b"x" * 5000), "", None),
        (b'{"model": {"type": 7, "context_length": -1, "decoder": []}}', "", None),
        (b'{"model": {"type": "llama", "context_length": 1e30}}', "llama", None),
        (b'{"model": {"type": "llama", "context_length": 1' + b"0" * 40 + b"}}", "llama", None),
        (b'{"model": {"type": "llama", "context_length": 4096, "decoder": {"hidden_size": "x"}}}', "llama", 4096),
    ],
)
def test_facts_of_a_folder_that_are_odd(root: Path, text: bytes, family: str, length: int | None) -> None:
    """Values of another type or beyond any sensible range count as absent."""
    put(root, "odd", pack(blob(root, b'{"config": {}}'), layer(blob(root, text), "genai_config.json")))
    record = asyncio.run(catalog_of(root).get(parse_name("odd")))
    assert (record.family, record.context_length, record.embedding_length) == (family, length, None)


def test_parts_of_a_manifest_that_nothing_uses(root: Path) -> None:
    """Each is named: what a user of the model might miss must not be dropped silently."""
    config = b'{"renderer": "qwen3-coder", "parser": "qwen3-coder"}'
    layers = [(kind, kind.encode()) for kind in ("model", "template", "projector", "draft", "embed", "license")]
    put(root, "rich", ollama(root, config, *layers))
    record = asyncio.run(catalog_of(root).get(parse_name("rich")))
    found = unused_parts(record)
    words = ("renderer 'qwen3-coder'", "parser 'qwen3-coder'", "draft", "image.embed")
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))
    assert unused_parts(asyncio.run(catalog_of(root).get(parse_name("sound")))) == ()
