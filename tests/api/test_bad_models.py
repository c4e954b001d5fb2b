"""A server over a store with models that are broken in many ways: each fails on its own, with a clear message."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.core.models.digests import digest_of
from corral.core.models.names import parse_name
from corral.plugins.testing.gguf import SMALL_MODEL, Tagged, gguf_bytes

_HEAD = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.ollama.image."
_LISTED = {"loop", "pipe", "folder", "gone", "overflow", "template"}
_BAD = (*sorted(_LISTED), "headless", "empty", "broken", "wide", "pipe-manifest", "loop-manifest", "ours")

_UNREADABLE = {"empty", "broken", "pipe-manifest", "loop-manifest"}


def _blob(root: Path, data: bytes) -> Path:
    path = root / "blobs" / digest_of(data).replace(":", "-")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _place(root: Path, name: str) -> Path:
    path = root.joinpath("manifests", *parse_name(name).parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _model(root: Path, name: str, weights: bytes, config: bytes = b"{}", kind: str = "model") -> Path:
    """Stores a model and returns the path of its weights."""
    path = _blob(root, weights)
    _blob(root, config)
    described = [
        {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
        for media_type, data in ((_HEAD, config), (_LAYER + kind, weights))
    ]
    manifest = {"schemaVersion": 2, "config": described[0], "layers": described[1:]}
    _place(root, name).write_text(json.dumps(manifest))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one model of each kind."""
    root = tmp_path / "models"
    for name in ("loop", "pipe", "folder", "gone"):
        weights = _model(root, name, name.encode())
        weights.unlink()
        if name == "loop":
            weights.symlink_to(weights)
        elif name == "pipe":
            os.mkfifo(weights)
        elif name == "folder":
            weights.mkdir()
    huge = {"llama.block_count": 4096, "llama.embedding_length": Tagged(10, 2**63)}
    _model(root, "overflow", gguf_bytes({**SMALL_MODEL, **huge}))
    _model(root, "template", b"{{" * 1_000_000, kind="template")
    _model(root, "wide", b"w", b'{"context_length": 1' + b"0" * 40 + b"}")
    _model(root, "headless", b"h", b'{"model_format": "gguf"}')
    (root / "blobs" / digest_of(b'{"model_format": "gguf"}').replace(":", "-")).unlink()
    _place(root, "empty").write_bytes(b"")
    _place(root, "broken").write_bytes(b"{" * 1000)
    os.mkfifo(_place(root, "pipe-manifest"))
    _place(root, "loop-manifest").symlink_to("latest")
    _model(root, "ours", b"w2", b'{"corral": 7}')
    (root / "manifests" / "circle").symlink_to("circle")
    return root


@pytest.fixture
def server(start_server: Callable[..., Any], root: Path) -> Iterator[httpx.Client]:
    with start_server(root=root) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def _listed(server: httpx.Client) -> set[str]:
    reply = server.get("/api/tags")
    assert reply.status_code == 200
    return {model["name"].removesuffix(":latest") for model in reply.json()["models"]}


def test_the_others_are_listed_and_run(server: httpx.Client) -> None:
    """Broken models beside them change nothing in how sound models are listed, described and run."""
    sound = {"smol:q4", "other", "embedder"}
    for _ in range(4):
        assert _listed(server) == sound | _LISTED
        for name in _BAD:
            shown = server.post("/api/show", json={"model": name})
            assert shown.status_code == 200 if name in _LISTED else shown.status_code in (404, 500)
            assert "Traceback" not in shown.text
    answer = server.post("/api/generate", json={"model": "other", "prompt": "hi", "stream": False})
    assert answer.json()["done"]
    for name in ("pipe", "overflow", "headless", "pipe-manifest"):
        assert server.post("/api/generate", json={"model": name, "prompt": "hi"}).status_code >= 400
    assert [model["name"] for model in server.get("/api/ps").json()["models"]] == ["other:latest"]


def test_each_can_be_removed(server: httpx.Client, root: Path) -> None:
    """Removing one removes its name. Once those are gone whose manifests cannot be read, and might name any file, what
    only a removed model used is removed too, except a folder among the blobs."""
    for name in sorted(_BAD, key=lambda name: name not in _UNREADABLE):
        assert server.request("DELETE", "/api/delete", json={"model": name}).status_code == 200
        assert server.request("DELETE", "/api/delete", json={"model": name}).status_code == 404
        assert not os.path.lexists(_place(root, name))
    assert _listed(server) == {"smol:q4", "other", "embedder"}
    for name in ("smol:q4", "other", "embedder"):
        server.request("DELETE", "/api/delete", json={"model": name})
    assert [path.name for path in (root / "blobs").iterdir()] == [digest_of(b"folder").replace(":", "-")]
