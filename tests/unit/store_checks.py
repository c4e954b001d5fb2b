"""What must hold of a store after whatever happened to it: it is consistent, and `gc` leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.upkeep import FilesystemUpkeep
from corral.core.catalog.garbage import GarbageCollector, GarbageReport
from corral.core.catalog.verifying import StoreVerifier
from corral.core.models.digests import mentioned_digests

__all__ = ("check_store", "collect_all")

_MONTH_S = 30 * 24 * 3600.0
_LASTING = {"store.lock", "manifests.lock"}


async def check_store(root: Path) -> dict[str, str]:
    """Every model is whole. Returns the digests of all manifests by name."""
    blobs, manifests = FilesystemBlobs(root), FilesystemManifests(root)
    verifier = StoreVerifier(
        manifests=manifests,
        blobs=blobs,
        formats=[OllamaManifestFormat(), ModelPackFormat()],
        upkeep=FilesystemUpkeep(root),
    )
    report = await verifier.verify([], lambda progress: None)
    assert report.is_whole, report
    return {entry.name.short: entry.digest async for entry in manifests.list(strict=True)}


async def collect_all(root: Path) -> GarbageReport:
    """Runs `gc` as it would run in a month; afterwards there is nothing but what models need."""
    blobs, manifests = FilesystemBlobs(root), FilesystemManifests(root)
    collector = GarbageCollector(
        manifests=manifests,
        blobs=blobs,
        local=blobs,
        upkeep=FilesystemUpkeep(root),
        now=lambda: time.time() + _MONTH_S,
    )
    report = await collector.collect(partials=True)
    needed = set[str]()
    async for entry in manifests.list(strict=True):
        stored = await manifests.get(entry.name)
        assert stored is not None
        needed |= mentioned_digests(stored.data)
    hexadecimal = {digest.partition(":")[2] for digest in needed}
    left = {name.removeprefix("sha256-") for name in _names(root / "blobs")}
    assert left == hexadecimal
    for path in sorted((root / ".corral").rglob("*")):
        if path.is_file():
            known = (
                path.name in _LASTING or path.stem in hexadecimal or path.name.removeprefix("sha256-") in hexadecimal
            )
            assert known, f"{path} is left"
    return report


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
