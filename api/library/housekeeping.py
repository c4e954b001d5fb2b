"""What keeps a store in order, as methods of `AsyncCorral`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from corral.api.library.arguments import checked, checked_callback
from corral.core.catalog.garbage import GarbageReport
from corral.core.catalog.verifying import VerifyReport
from corral.core.models.names import parse_name
from corral.core.ports.prefixes import KeptPrefixes
from corral.core.ports.sources import OnProgress, ignore_progress
from corral.core.runtime import Runtime

__all__ = ("AsyncHousekeeping",)


class AsyncHousekeeping(ABC):
    """A base of `AsyncCorral`."""

    @abstractmethod
    async def runtime(self) -> Runtime: ...

    async def gc(self, *, dry_run: bool = False, partials: bool = False) -> GarbageReport:
        """Deletes what no model needs, and says what that was; with `dry_run`, it only says so.

        What is in use, and what was stored within the last hour, stays. Unfinished downloads stay for a week; with
        `partials`, only those in use do. Raises `StorageError` if a manifest cannot be read: it might name any blob.
        """
        checked("dry_run", dry_run, bool)
        checked("partials", partials, bool)
        return await (await self.runtime()).garbage.collect(dry_run=dry_run, partials=partials)

    async def kept_prefixes(self) -> Sequence[KeptPrefixes]:
        """The prefixes of prompts that engines have kept on disk, by model, the largest first."""
        return await (await self.runtime()).prefixes.list()

    async def clear_prefixes(self, model: str | None = None) -> tuple[int, int]:
        """Deletes the prefixes of one model, or of all, from disk: how many there were, and their bytes.

        Loaded models forget those in memory within seconds, whichever process has loaded them. Raises `ModelNotFound`,
        `StorageError`.
        """
        runtime = await self.runtime()
        if model is None:
            return await runtime.prefixes.clear()
        record = await runtime.catalog.get(parse_name(checked("model", model, str)))
        if record.weights is None:
            return 0, 0
        return await runtime.prefixes.clear(record.weights.digest)

    async def verify(self, *models: str, on_progress: OnProgress | None = None) -> VerifyReport:
        """Reads the blobs of these models, or of the whole store, and compares their bytes with their digests.

        A broken blob is moved aside, so that pulling its model again repairs it. Raises `ModelNotFound`.
        """
        names = [parse_name(checked("models", model, str)) for model in models]
        report = checked_callback("on_progress", on_progress) or ignore_progress
        return await (await self.runtime()).verifier.verify(names, report)
