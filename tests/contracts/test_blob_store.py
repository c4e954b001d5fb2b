"""Our blob stores against the contract of their port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.layered_blobs import LayeredBlobs
from corral.adapters.stores.layers import StoreLayer
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs
from corral.adapters.stores.oci_layout_blobs import LayoutBlobFiles
from corral.adapters.stores.oci_layout_contents import LayoutContents
from corral.plugins.testing import BlobStoreContract, LocalBlobsContract


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


class TestMemoryBlobs(BlobStoreContract, LocalBlobsContract):
    @pytest.fixture
    def store(self) -> Iterator[MemoryBlobs]:
        blobs = MemoryBlobs()
        yield blobs
        blobs.close()
