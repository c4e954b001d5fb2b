"""Our blob stores against the contract of their port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.layered_blobs import LayeredBlobs
from corral.adapters.stores.layers import StoreLayer
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs
from corral.adapters.stores.oci_layout_blobs import LayoutBlobFiles
from corral.adapters.stores.oci_layout_contents import LayoutContents
from corral.plugins.testing import BlobStoreContract, LocalBlobsContract
from corral.plugins.testing.fake_registry import FakeRegistry
from tests.contracts.remote_stores import remote_stores


class TestFilesystemBlobs(BlobStoreContract, LocalBlobsContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FilesystemBlobs:
        return FilesystemBlobs(tmp_path / "models")


class TestOciLayoutBlobs(BlobStoreContract, LocalBlobsContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FilesystemBlobs:
        root = tmp_path / "models"
        return FilesystemBlobs(root, LayoutBlobFiles(LayoutContents(root)))


class TestLayeredBlobs(BlobStoreContract, LocalBlobsContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LayeredBlobs:
        own, site = (
            StoreLayer(
                name=name,
                blobs=(blobs := FilesystemBlobs(tmp_path / name)),
                local=blobs,
                manifests=FilesystemManifests(tmp_path / name),
            )
            for name in ("own", "site")
        )
        return LayeredBlobs(own, [site])


class TestRemoteBlobs(BlobStoreContract, LocalBlobsContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Any]:
        with FakeRegistry() as registry:
            registry.keeps_connections = False
            yield remote_stores(f"{registry.host}/models", tmp_path).blobs


class TestMemoryBlobs(BlobStoreContract, LocalBlobsContract):
    @pytest.fixture
    def store(self) -> Iterator[MemoryBlobs]:
        blobs = MemoryBlobs()
        yield blobs
        blobs.close()
