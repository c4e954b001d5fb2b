"""Models made by an enemy, or by accident: manifests, small files and folders that are not what they claim to be."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.core.catalog import ModelCatalog
from corral.core.errors import CorralError, InvalidModelFile, InvalidRequest, StorageError
from corral.core.models import digest_of
from corral.core.names import parse_name
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

_PACK = "application/vnd.cncf.model."
_NOT_UTF8 = b"\xff\xfe"


def catalog_of(root: Path) -> ModelCatalog:
    blobs = FilesystemBlobs(root)
    return ModelCatalog(
        manifests=FilesystemManifests(root),
        blobs=blobs,
        local=blobs,
        formats=[OllamaManifestFormat(), ModelPackFormat()],
        readers=[GgufReader()],
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
    """A manifest as somebody else writes it."""
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
    """Whatever a small file holds, the list of models stands, and no other error than ours comes of it."""
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
    """No model has it: nothing of the manifest becomes a file."""
    put(root, "evil", pack(blob(root, b"{}"), layer(blob(root, b"data"), path)))
    with pytest.raises(StorageError, match="no path that a model's file may have"):
        asyncio.run(catalog_of(root).get(parse_name("evil")))
    assert names(root) == ["sound:latest"]


@pytest.mark.parametrize("paths", [("a", "a"), ("Model.onnx", "model.onnx"), ("a", "a/b"), ("a/b", "A")])
def test_paths_that_cannot_lie_in_one_folder(root: Path, paths: tuple[str, str]) -> None:
    """Two that differ in case only, and one that is a folder of another, are refused."""
    layers = [layer(blob(root, path.encode()), path, "weight") for path in paths]
    put(root, "evil", pack(blob(root, b'{"config": {}}'), *layers))
    with pytest.raises(StorageError, match="named twice"):
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
    """They are read, where the manifest is no larger than one may be."""
    file = blob(root, b"data")
    manifest = pack(blob(root, b'{"config": {}}'), *(layer(file, f"{place}", "weight") for place in range(10_000)))
    put(root, "many", manifest)
    record = asyncio.run(catalog_of(root).get(parse_name("many")))
    assert len(record.files) == 10_000


def test_small_layers_that_are_not_small(root: Path) -> None:
    """What is read of them is bounded, one by one and together, whatever sizes the manifest claims."""
    one = blob(root, bytes(17 << 20)) | {"size": 1}
    put(root, "evil", pack(blob(root, b'{"config": {}}'), layer(one, "LICENSE", "doc")))
    with pytest.raises(StorageError, match="larger than the text layers"):
        asyncio.run(catalog_of(root).get(parse_name("evil")))
    some = [layer(blob(root, bytes(15 << 20) + bytes([place])), f"{place}/LICENSE", "doc") for place in range(5)]
    put(root, "evil", pack(blob(root, b'{"config": {}}'), *some))
    with pytest.raises(StorageError, match="larger than the text layers"):
        asyncio.run(catalog_of(root).get(parse_name("evil")))


def test_names_of_derived_models_are_not_for_callers(root: Path, tmp_path: Path) -> None:
    """Nobody puts a model of his own where a converted one is looked for."""
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
        with pytest.raises(InvalidRequest, match="keeps for itself"):
            asyncio.run(attempt)
    assert not (root / "manifests" / "corral.derived").exists()


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sentence encoder, as far as importing looks."""
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
    [("/etc/hostname", "leads out of the folder"), ("nowhere", "leads nowhere"), ("c.json", "nowhere")],
)
def test_a_folder_with_a_link(root: Path, folder: Path, target: str, text: str) -> None:
    """One that leads out, to nothing, or in a circle is named, and nothing is imported."""
    (folder / "c.json").symlink_to(target)
    with pytest.raises(InvalidModelFile, match=text):
        imported(root, folder)
    assert names(root) == ["sound:latest"]


def test_a_folder_with_what_is_no_file(root: Path, folder: Path) -> None:
    """Pipes, sockets, links to folders elsewhere, code and hidden files are left alone: nothing waits for them."""
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
    """It is refused by its size before anybody reads it, and the store is left as it was."""
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
    """What a manifest would make of its files is tried before the model gets its name."""
    (folder / name).write_bytes(text)
    with pytest.raises(StorageError, match=name):
        imported(root, folder)
    assert not (root / "manifests/registry.ollama.ai/library/encoder").exists()


@pytest.mark.parametrize("name", [b"\xff.json", b"a\nb.json", b"nul.json", b"a:b.json"])
def test_a_folder_with_a_name_that_no_manifest_may_have(root: Path, folder: Path, name: bytes) -> None:
    """It is named in a way that can be printed."""
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"{}")
    with pytest.raises(InvalidModelFile, match="no path that a model's file may have") as caught:
        imported(root, folder)
    assert str(caught.value).isprintable()
