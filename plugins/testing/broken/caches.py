"""A sound metadata cache, and caches that break one promise each: they show that `MetadataCacheContract` sees it."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import msgspec

from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata

__all__ = ("CACHES", "SoundCache")


class SoundCache:
    """A `MetadataCache` that keeps every promise, and the shortest that does."""

    breaks: ClassVar[str | None] = None
    """The test that fails with this cache, and no other does."""

    def __init__(self) -> None:
        self._known: dict[Digest, ModelMetadata] = {}

    async def get(self, digest: Digest) -> ModelMetadata | None:
        return self._known.get(digest)

    async def put(self, digest: Digest, metadata: ModelMetadata) -> None:
        self._known[digest] = metadata


class GuessingCache(SoundCache):
    """Takes any metadata for those of a file that it does not know."""

    breaks = "test_it_remembers"

    async def get(self, digest: Digest) -> ModelMetadata | None:
        return self._known.get(digest) or next(iter(self._known.values()), None)


class StubbornCache(SoundCache):
    """Keeps what it has learned first."""

    breaks = "test_the_last_one_counts"

    async def put(self, digest: Digest, metadata: ModelMetadata) -> None:
        self._known.setdefault(digest, metadata)


class StrictCache(SoundCache):
    """Complains about what it cannot encode."""

    breaks = "test_what_cannot_be_stored_is_dropped"

    async def put(self, digest: Digest, metadata: ModelMetadata) -> None:
        msgspec.msgpack.encode(metadata)
        await super().put(digest, metadata)


class ConfusedCache(SoundCache):
    """Stores an entry under the digest that it heard last."""

    breaks = "test_many_tasks_at_once"

    async def put(self, digest: Digest, metadata: ModelMetadata) -> None:
        self._digest = digest
        await asyncio.sleep(0)
        await super().put(self._digest, metadata)


CACHES: tuple[type[SoundCache], ...] = (GuessingCache, StubbornCache, StrictCache, ConfusedCache)
"""The broken caches."""
