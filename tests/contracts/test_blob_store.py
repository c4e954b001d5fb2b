"""Our blob stores against the contract of their port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
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


class TestMemoryBlobs(BlobStoreContract, LocalBlobsContract):
    @pytest.fixture
    def store(self) -> Iterator[MemoryBlobs]:
        blobs = MemoryBlobs()
        yield blobs
        blobs.close()
