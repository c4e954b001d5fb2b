"""Our manifest stores against the contract of their port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.layered_manifests import LayeredManifests
from corral.adapters.stores.layers import StoreLayer
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryManifests
from corral.adapters.stores.oci_layout import OciLayoutManifests
from corral.adapters.stores.oci_layout_contents import LayoutContents
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.manifest_store import ManifestStoreContract
from tests.contracts.remote_stores import remote_stores


class TestFilesystemManifests(ManifestStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FilesystemManifests:
        return FilesystemManifests(tmp_path / "models")


class TestOciLayoutManifests(ManifestStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> OciLayoutManifests:
        return OciLayoutManifests(LayoutContents(tmp_path / "models"))


class TestLayeredManifests(ManifestStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LayeredManifests:
        own, site = (
            StoreLayer(
                name=name,
                blobs=(blobs := FilesystemBlobs(tmp_path / name)),
                local=blobs,
                manifests=FilesystemManifests(tmp_path / name),
            )
            for name in ("own", "site")
        )
        return LayeredManifests(own, [site])


class TestRemoteManifests(ManifestStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Any]:
        with FakeRegistry() as registry:
            registry.keeps_connections = False
            yield remote_stores(f"{registry.host}/models", tmp_path).manifests


class TestMemoryManifests(ManifestStoreContract):
    @pytest.fixture
    def store(self) -> MemoryManifests:
        return MemoryManifests()
