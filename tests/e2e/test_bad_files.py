"""Files that are not models, or models that do not fit: a clear error each time, and the server continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes

pytestmark = pytest.mark.native


@pytest.fixture
def register(environment: dict[str, str]) -> Callable[..., None]:
    """Puts a model into the store as another program would: blob and manifest, without any checks."""
    root = Path(environment["CORRAL_MODELS"])

    def put(name: str, weights: bytes, size_bytes: int | None = None) -> None:
        config = json.dumps({"model_format": "gguf", "model_family": "llama"}).encode()
        layers = []
        for data in (config, weights):
            digest = hashlib.sha256(data).hexdigest()
            blob = root / "blobs" / f"sha256-{digest}"
            blob.write_bytes(data)
            layers.append({"digest": f"sha256:{digest}", "size": len(data)})
        if size_bytes is not None:
            with blob.open("r+b") as file:  # sparse: it takes no space on disk
                file.truncate(size_bytes)
            layers[1]["size"] = size_bytes
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **layers[0]},
            "layers": [{"mediaType": "application/vnd.ollama.image.model", **layers[1]}],
        }
        path = root / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))

    return put


def refused(server: Any, name: str) -> str:
    """The server's error for a model that it cannot load; other models still answer."""
    response = server.generate(name)
    assert response.status_code == 500
    error: str = response.json()["error"]
    assert server.generate().json()["response"].startswith(" Paris")
    return error


def test_a_truncated_file_is_not_imported(corral: Callable[..., Any], smollm2: Path, tmp_path: Path) -> None:
    """A partial download is reported as such, and nothing is stored."""
    half = tmp_path / "half.gguf"
    with smollm2.open("rb") as whole:
        half.write_bytes(whole.read(20_000_000))
    done = corral("import", str(half))
    assert done.returncode == 1
    assert "half.gguf" in done.stderr
    assert "truncated" in done.stderr
    assert "half" not in corral("list").stdout


def test_a_truncated_file_in_the_store(server: Any, register: Callable[..., None], smollm2: Path) -> None:
    """If the store contains one anyway, the request is refused with the reason."""
    with smollm2.open("rb") as whole:
        register("half", whole.read(20_000_000))
    assert "truncated" in refused(server, "half")


def test_an_unknown_architecture(server: Any, corral: Callable[..., Any], tmp_path: Path) -> None:
    """An architecture that llama.cpp does not know is named in the error."""
    file = tmp_path / "strange.gguf"
    file.write_bytes(gguf_bytes({**SMALL_MODEL, "general.architecture": "quantum-llama"}))
    assert corral("import", str(file), "--name", "strange").returncode == 0
    assert "quantum-llama" in refused(server, "strange")


def test_a_text_file(server: Any, register: Callable[..., None], corral: Callable[..., Any], tmp_path: Path) -> None:
    """A file is judged by its content, not by its name."""
    file = tmp_path / "notes.gguf"
    file.write_text("Buy milk.\n" * 100)
    done = corral("import", str(file))
    assert done.returncode == 1
    assert "notes.gguf: not a GGUF file: it is text" in done.stderr
    register("notes", file.read_bytes())
    assert refused(server, "notes")


def test_a_file_bigger_than_memory(server: Any, register: Callable[..., None]) -> None:
    """It is refused before anything is loaded; the error says how much it needs and how much is free."""
    size_bytes = 8 << 40
    tensor = TensorEntry("token_embd.weight", shape=(32, size_bytes // 128), size_bytes=0)
    header = gguf_bytes(SMALL_MODEL, [tensor])
    register("huge", header, len(header) + size_bytes)
    error = refused(server, "huge")
    assert "huge:latest needs about 81" in error
    assert "GiB is free" in error
    assert "smaller model" in error
