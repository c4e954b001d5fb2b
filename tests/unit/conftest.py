"""Scripted servers, a model behind them, stores of either kind, and the command line in this process."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from corral.adapters.engines.upstream.spec import SPEC, UpstreamOptions
from corral.adapters.registries.oci.registry import OciRegistry
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.adapters.runners.event_loop import EventLoopRunner
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.api.cli import main
from corral.core.models.model import RemoteModel
from corral.core.ports.running import RunningModel
from corral.core.specs.engines import LoadRequest
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.scripted_server import ScriptedServer


@contextmanager
def _alone(environment: Mapping[str, str]) -> Iterator[None]:
    """What the command line finds and changes in a process of its own."""
    root, ours, hook = logging.getLogger(), logging.getLogger("corral"), sys.unraisablehook
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers.clear()
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            for name in os.environ.keys() - environment.keys():
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            yield
    finally:
        root.handlers[:], sys.unraisablehook = handlers, hook
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


@pytest.fixture(scope="session")
def call_corral() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``call_corral(environment, *arguments)`` is `run_corral` without another process, and so thirty times as fast:
    for what a command does, not for how its process starts and ends. `input` is what it can read."""

    def call(
        environment: Mapping[str, str], *arguments: str, input: str | bytes = ""
    ) -> subprocess.CompletedProcess[str]:
        with CliRunner().isolation(input=input) as (out, err, _), _alone(environment):
            status: object = 0
            try:
                main(arguments)
            except SystemExit as end:
                status = end.code or 0
            assert isinstance(status, int), status
            streams = (io.TextIOWrapper(io.BytesIO(stream.getvalue()), "utf-8") for stream in (out, err))
            return subprocess.CompletedProcess(arguments, status, *(stream.read() for stream in streams))

    return call


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
