"""The prefixes that all models of a store have on disk, for people to see and to clear."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from corral.adapters.engine_kit.prefixes.packed_keys import WIDTH
from corral.adapters.engine_kit.prefixes.prefix_folder import PrefixFolder, StoredPrefix
from corral.adapters.system.blocking_work import in_thread
from corral.core.models.digests import Digest
from corral.core.ports.prefixes import KeptPrefixes

__all__ = ("FolderPrefixDisk",)


class FolderPrefixDisk:
    """A `PrefixDisk` over a `PrefixFolder`; None: a store without one, which has no prefixes."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else PrefixFolder(folder, 0)

    async def list(self) -> Sequence[KeptPrefixes]:
        folder = self._folder
        if folder is None:
            return ()
        stored = await in_thread(lambda _: folder.scan())
        by_model: defaultdict[str, list[StoredPrefix]] = defaultdict(list)
        for one in stored:
            by_model[one.head.owner.partition("/")[0]].append(one)
        kept = [_of_model(Digest(weights), found) for weights, found in by_model.items()]
        return sorted(kept, key=lambda model: -model.size_bytes)

    async def clear(self, weights: Digest | None = None) -> tuple[int, int]:
        folder = self._folder
        if folder is None:
            return 0, 0

        def work(_: threading.Event) -> tuple[int, int]:
            return folder.clear(weights)

        return await in_thread(work)


def _of_model(weights: Digest, found: Sequence[StoredPrefix]) -> KeptPrefixes:
    return KeptPrefixes(
        model=found[-1].head.model,
        weights=weights,
        entries=len(found),
        tokens=sum(len(one.head.keys) // WIDTH for one in found),
        size_bytes=sum(one.size_bytes for one in found),
        used_at=max(one.used_at for one in found),
    )
