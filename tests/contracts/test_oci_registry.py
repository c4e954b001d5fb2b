"""HTTP registries keep every promise of the port: on a fake one with each of its quirks, and on a real one."""

from __future__ import annotations

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


@pytest.fixture
def client(tmp_path: Path) -> Callable[..., OciRegistry]:
    """A client of a user with an empty home; keyword arguments are settings."""

    def make(**settings: Any) -> OciRegistry:
        stated = OciRegistrySettings(ollama_key=str(tmp_path / "key"), **settings)
        return OciRegistry(stated, environment={"HOME": str(tmp_path)})

    return make


QUIRKS: dict[str, Callable[[FakeRegistry], object]] = {
    "as the specification has it": lambda registry: None,
    "without ranges and pieces": lambda registry: (
        setattr(registry, "knows_ranges", False),
        setattr(registry, "takes_pieces", False),
    ),
    "with relative locations and tokens": lambda registry: (
        setattr(registry, "relative_locations", True),
        setattr(registry, "demands", "token"),
        setattr(registry, "anonymous_pulls", True),
        registry.public_keys.add("any"),
    ),
    "with a storage elsewhere": lambda registry: (
        setattr(registry, "blobs_at", registry.url.replace("127.0.0.1", "localhost")),
        setattr(registry, "uploads_at", registry.url.replace("127.0.0.1", "localhost")),
        setattr(registry, "mounts", False),
    ),
}


class TestFakeRegistry(RegistryContract):
    @pytest.fixture(params=["as the specification has it", "without ranges and pieces", "with a storage elsewhere"])
    def registry(self, request: pytest.FixtureRequest, client: Callable[..., OciRegistry]) -> Iterator[Registry]:
        with FakeRegistry() as fake:
            QUIRKS[request.param](fake)
            self.prefix = f"{fake.host}/"
            yield client(upload_chunk_bytes=65536)


class TestDockerRegistry(RegistryContract):
    @pytest.fixture
    def registry(self, docker_registry: str, client: Callable[..., OciRegistry]) -> Registry:
        self.prefix = f"{docker_registry}/{uuid.uuid4().hex}/"
        return client(upload_chunk_bytes=65536)
