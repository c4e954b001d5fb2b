"""The contract of metadata caches, as a suite to subclass: give it a fixture `cache`."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from corral.core.models.digests import digest_of
from corral.core.models.model import ModelMetadata
from corral.core.ports.metadata import MetadataCache

__all__ = ("MetadataCacheContract",)

_METADATA = ModelMetadata(
    format="gguf",
    architecture="llama",
    file_type="Q4_1",
    parameter_count=1 << 40,
    tensor_bytes=(1 << 40) + 1,
    tensor_types={"Q4_1": 7, "F32": 3},
    context_length=8192,
    chat_template="{{ 'é🦔' }}",
    tools_template="{{ tools }}",
    keys={"a": 1, "b": "x", "c": 1e-05, "d": True, "e": float("inf"), "f": None},
)
_ODD = (
    replace(_METADATA, keys={"beyond": 1 << 70}),
    replace(_METADATA, name="a lone surrogate: \ud800"),
    replace(_METADATA, keys={"foreign": object()}),
    replace(_METADATA, chat_template="x" * (8 << 20)),
)


class MetadataCacheContract:
    """What every `MetadataCache` promises. A subclass gives the fixture `cache`: an empty one, fresh for each test."""

    @pytest.fixture
    def cache(self) -> MetadataCache:
        raise NotImplementedError("a subclass of MetadataCacheContract gives the fixture cache")

    def test_it_remembers(self, cache: MetadataCache) -> None:
        """Metadata come back equal, and nothing is known of another digest."""

        async def scenario() -> None:
            await cache.put(digest_of(b"known"), _METADATA)
            assert await cache.get(digest_of(b"known")) == _METADATA
            assert await cache.get(digest_of(b"unknown")) is None

        asyncio.run(scenario())

    def test_the_last_one_counts(self, cache: MetadataCache) -> None:
        """Metadata that are put again replace the earlier ones."""

        async def scenario() -> None:
            other = replace(_METADATA, name="renamed")
            for metadata in (_METADATA, other):
                await cache.put(digest_of(b"known"), metadata)
            assert await cache.get(digest_of(b"known")) == other

        asyncio.run(scenario())

    @pytest.mark.parametrize("number", range(len(_ODD)))
    def test_what_cannot_be_stored_is_dropped(self, cache: MetadataCache, number: int) -> None:
        """No metadata make `put` or `get` raise: they come back equal, or not at all."""

        async def scenario() -> None:
            await cache.put(digest_of(b"odd"), _ODD[number])
            assert await cache.get(digest_of(b"odd")) in (None, _ODD[number])
            await cache.put(digest_of(b"known"), _METADATA)
            assert await cache.get(digest_of(b"known")) == _METADATA

        asyncio.run(scenario())

    def test_many_tasks_at_once(self, cache: MetadataCache) -> None:
        """Entries that are put and read at the same time do not disturb each other."""

        async def one(number: int) -> bool:
            digest, metadata = digest_of(b"%d" % number), replace(_METADATA, name=str(number))
            await cache.put(digest, metadata)
            return await cache.get(digest) == metadata

        async def scenario() -> None:
            assert all(await asyncio.gather(*(one(number % 4) for number in range(16))))

        asyncio.run(scenario())
