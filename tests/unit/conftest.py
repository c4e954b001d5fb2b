"""Scripted servers, a model behind them, and stores of either kind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corral.adapters.engines.upstream.spec import SPEC, UpstreamOptions
from corral.adapters.registries.oci.registry import OciRegistry
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.adapters.runners.event_loop import EventLoopRunner
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.core.models.model import RemoteModel
from corral.core.ports.running import RunningModel
from corral.core.specs.engines import LoadRequest
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.scripted_server import ScriptedServer


@pytest.fixture
def upstream() -> Iterator[ScriptedServer]:
    """A server without any scripted answers yet."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def another_upstream() -> Iterator[ScriptedServer]:
    """A second such server."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def load_upstream() -> Callable[..., Any]:
    """Loads the model ``m`` of these servers, in the running loop; options are the engine's settings."""

    async def load(*urls: str, api: str | None = None, model: str = "m", **options: Any) -> RunningModel:
        request = LoadRequest(
            model="big:latest",
            files=(),
            load_options=msgspec.to_builtins(msgspec.convert(options, UpstreamOptions)),
            remote=RemoteModel(host=urls[0], model=model, replicas=urls[1:], api=api),
        )
        return await EventLoopRunner().load(SPEC, request, lambda share: None)

    return load


@pytest.fixture(params=["memory", "filesystem"])
def either_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Blobs and manifests: in memory, and in the folder ``models`` of `tmp_path`."""
    if request.param == "memory":
        blobs = MemoryBlobs()
        yield blobs, MemoryManifests()
        blobs.close()
    else:
        yield FilesystemBlobs(tmp_path / "models"), FilesystemManifests(tmp_path / "models")


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """An empty registry that demands no login."""
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def oci_client(tmp_path: Path) -> Callable[..., OciRegistry]:
    """A client of a user whose home is `tmp_path`; keyword arguments are settings, `environment` and `clock`."""

    def make(environment: Mapping[str, str] = {}, clock: Callable[[], float] = time.monotonic, **settings: Any) -> Any:
        key = str(tmp_path / "id_ed25519")
        stated: dict[str, Any] = {"ollama_key": key, "upload_chunk_bytes": 65536} | settings
        home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        return OciRegistry(OciRegistrySettings(**stated), environment=home | dict(environment), clock=clock)

    return make
