"""What must hold of a store after whatever happened to it: it is consistent, and `gc` leaves nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

from corral.adapters.formats.modelpack import ModelPackFormat
from corral.adapters.formats.ollama import OllamaManifestFormat
from corral.core.catalog.garbage import GarbageCollector, GarbageReport
from corral.core.catalog.verifying import StoreVerifier
from corral.core.models.digests import mentioned_digests
from tests.unit.store_worker import stores_at

__all__ = ("check_store", "collect_all")

_MONTH_S = 30 * 24 * 3600.0
_LASTING = {"store.lock", "manifests.lock"}


async def check_store(root: Path, kind: str = "filesystem") -> dict[str, str]:
    """Every model is whole. Returns the digests of all manifests by name."""
    stores = stores_at(root, kind)
    verifier = StoreVerifier(
        manifests=stores.manifests,
        blobs=stores.blobs,
        formats=[OllamaManifestFormat(), ModelPackFormat()],
        upkeep=stores.upkeep,
    )
    report = await verifier.verify([], lambda progress: None)
    assert report.is_whole, report
    return {entry.name.short: entry.digest async for entry in stores.manifests.list(strict=True)}


async def collect_all(root: Path, kind: str = "filesystem") -> GarbageReport:
    """Runs `gc` as it would run in a month; afterwards there is nothing but what models need."""
    stores = stores_at(root, kind)
    for path in (root / ".corral").rglob("*"):
        status = path.lstat()
        os.utime(path, (status.st_atime, status.st_mtime - _MONTH_S), follow_symlinks=False)
    collector = GarbageCollector(
        manifests=stores.manifests,
        blobs=stores.blobs,
        local=stores.local,
        upkeep=stores.upkeep,
        now=lambda: time.time() + _MONTH_S,
    )
    report = await collector.collect(partials=True)
    needed = set[str]()
    async for entry in stores.manifests.list(strict=True):
        stored = await stores.manifests.get(entry.name)
        assert stored is not None
        needed |= mentioned_digests(stored.data)
        if kind == "oci-layout":
            needed.add(stored.digest)  # manifests are blobs there
    hexadecimal = {digest.partition(":")[2] for digest in needed}
    left = {path.name.removeprefix("sha256-") for path in (root / "blobs").rglob("*") if path.is_file()}
    assert left == hexadecimal
    for path in sorted((root / ".corral").rglob("*")):
        if path.is_file():
            known = (
                path.name in _LASTING or path.stem in hexadecimal or path.name.removeprefix("sha256-") in hexadecimal
            )
            assert known, f"{path} is left"
    return report
