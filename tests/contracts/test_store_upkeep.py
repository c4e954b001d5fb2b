"""The upkeep of our stores against the contract of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.oci_layout_blobs import LayoutBlobFiles
from corral.adapters.stores.oci_layout_contents import LayoutContents
from corral.adapters.stores.upkeep import FilesystemUpkeep
from corral.core.ports.blobs import BlobStore
from corral.plugins.testing import StoreUpkeepContract


class TestFilesystemUpkeep(StoreUpkeepContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FilesystemBlobs:
        return FilesystemBlobs(tmp_path / "models")

    @pytest.fixture
    def upkeep(self, blobs: BlobStore, tmp_path: Path) -> FilesystemUpkeep:
        return FilesystemUpkeep(tmp_path / "models")


class TestOciLayoutUpkeep(StoreUpkeepContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FilesystemBlobs:
        return FilesystemBlobs(tmp_path / "models", _layout(tmp_path))

    @pytest.fixture
    def upkeep(self, blobs: BlobStore, tmp_path: Path) -> FilesystemUpkeep:
        return FilesystemUpkeep(tmp_path / "models", _layout(tmp_path))


def _layout(tmp_path: Path) -> LayoutBlobFiles:
    return LayoutBlobFiles(LayoutContents(tmp_path / "models"))
