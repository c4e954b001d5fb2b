"""Models made by an enemy, or by accident: manifests, small files and folders that are not what they claim to be."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.formats.gguf import GgufReader
from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.core.catalog import ModelCatalog
from corral.core.errors import CorralError, StorageError
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
