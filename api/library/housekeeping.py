"""What keeps a store in order, as methods of `AsyncCorral`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from corral.api.library.arguments import checked, checked_callback
from corral.core.catalog.garbage import GarbageReport
from corral.core.catalog.verifying import VerifyReport
from corral.core.models.names import parse_name
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

    async def verify(self, *models: str, on_progress: OnProgress | None = None) -> VerifyReport:
        """Reads the blobs of these models, or of the whole store, and compares their bytes with their digests.

        A broken blob is moved aside, so that pulling its model again repairs it. Raises `ModelNotFound`.
        """
        names = [parse_name(checked("models", model, str)) for model in models]
        report = checked_callback("on_progress", on_progress) or ignore_progress
        return await (await self.runtime()).verifier.verify(names, report)
