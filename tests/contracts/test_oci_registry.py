"""HTTP registries keep every promise of the port: on a fake one with each of its quirks, and on a real one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.registries.oci.registry import OciRegistry
from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.core.ports.registries import Registry
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.registry import RegistryContract


def _as_specified(registry: FakeRegistry) -> None:
    pass


def _with_tokens_and_relative_locations(registry: FakeRegistry) -> None:
    registry.demands = "token"
    registry.logins["me"] = "secret"
    registry.relative_locations = True


def _without_pieces(registry: FakeRegistry) -> None:
    registry.demands = "basic"
    registry.logins["me"] = "secret"
    registry.takes_pieces = False


def _with_a_storage_elsewhere(registry: FakeRegistry) -> None:
    registry.blobs_at = registry.uploads_at = registry.url.replace("127.0.0.1", "localhost")
    registry.mounts = False


@pytest.fixture
def client(tmp_path: Path) -> Callable[..., OciRegistry]:
    """A client of a user with an empty home but for one login; keyword arguments are settings."""

    def make(host: str, **settings: Any) -> OciRegistry:
        login = {"auths": {host: {"username": "me", "password": "secret"}}}
        (tmp_path / "config.json").write_text(json.dumps(login))
        stated = OciRegistrySettings(ollama_key=str(tmp_path / "key"), upload_chunk_bytes=65536, **settings)
        return OciRegistry(stated, environment={"HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)})

    return make


class TestFakeRegistry(RegistryContract):
    @pytest.fixture(
        params=[_as_specified, _with_tokens_and_relative_locations, _without_pieces, _with_a_storage_elsewhere],
        ids=lambda quirks: quirks.__name__.strip("_").replace("_", " "),
    )
    def registry(self, request: pytest.FixtureRequest, client: Callable[..., OciRegistry]) -> Iterator[Registry]:
        with FakeRegistry() as fake:
            request.param(fake)
            self.prefix = f"{fake.host}/"
            yield client(fake.host)


class TestDockerRegistry(RegistryContract):
    @pytest.fixture
    def registry(self, docker_registry: str, client: Callable[..., OciRegistry]) -> Registry:
        self.prefix = f"{docker_registry}/{uuid.uuid4().hex}/"
        return client(docker_registry)
