"""The suite that every registry must pass, `RegistryContract`, and `MemoryRegistry`, which passes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from corral.adapters.registries.memory import MemoryRegistry
from corral.core.errors import BlobNotFound, CorralError, DigestMismatch, NotFound, SourceError
from corral.core.models.digests import Digest, digest_of, mentioned_digests
from corral.core.models.references import Reference, parse_reference
from corral.core.ports.registries import Registry

__all__ = ("MemoryRegistry", "RegistryContract", "fetched", "push_blob", "push_model")

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_MOST_BYTES = 1 << 20


async def fetched(
    registry: Registry, reference: Reference, blob: Digest, start: int = 0, end: int | None = None
) -> bytes:
    """A range of a blob."""
    async with aclosing(registry.fetch(reference, blob, start, end)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def push_blob(registry: Registry, reference: Reference, data: bytes) -> Digest:
    """Adds `data` to the blobs of the reference's repository."""
    digest = digest_of(data)
    writer = await registry.begin(reference, digest, len(data))
    try:
        await writer.write(data)
        await writer.commit()
    except BaseException:
        await writer.abort()
        raise
    return digest


async def push_model(registry: Registry, reference: Reference, config: bytes, *layers: tuple[str, bytes]) -> bytes:
    """Publishes a manifest like Ollama's with these layers (media type, content), and returns its bytes."""
    described = []
    for media_type, data in ((_CONFIG_TYPE, config), *layers):
        digest = await push_blob(registry, reference, data)
        described.append({"mediaType": media_type, "digest": digest, "size": len(data)})
    head = {"schemaVersion": 2, "mediaType": _MANIFEST_TYPE, "config": described[0], "layers": described[1:]}
    manifest = msgspec.json.format(msgspec.json.encode(head), indent=3)  # as nobody else spells it
    await registry.put(reference, manifest, _MANIFEST_TYPE)
    return manifest


class RegistryContract:
    """Subclass it and provide the fixture `registry`, in which the repositories ``suite/one`` and ``suite/two`` are
    empty and writable. `prefix` comes before them, for registries that have no default host."""

    prefix = ""

    @pytest.fixture
    def registry(self) -> Registry:
        raise NotImplementedError("give a fixture called registry")

    def test_a_manifest_comes_back_as_it_was(self, registry: Registry) -> None:
        """Reading by tag and by digest gives the same bytes and media type."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            manifest = await push_model(registry, one, b"{}", ("x/weights", b"weights"))
            for reference in (one, self._with_digest(registry, digest_of(manifest))):
                found = await registry.manifest(reference)
                assert (found.data, found.media_type) == (manifest, _MANIFEST_TYPE)

        _run(registry, check)

    def test_a_manifest_has_the_digest_of_its_bytes(self, registry: Registry) -> None:
        """`put` returns it, and refuses a reference with another digest."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            manifest = await push_model(registry, one, b"{}")
            assert await registry.put(one, manifest, _MANIFEST_TYPE) == digest_of(manifest)
            other = self._with_digest(registry, digest_of(b"something else"))
            await _refused(DigestMismatch, lambda: registry.put(other, manifest, _MANIFEST_TYPE))

        _run(registry, check)

    def test_a_tag_moves(self, registry: Registry) -> None:
        """The tag leads to the latest manifest; the previous one stays available by digest."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            before = await push_model(registry, one, b"{}", ("x/weights", b"old"))
            after = await push_model(registry, one, b"{}", ("x/weights", b"new"))
            for reference, expected in ((one, after), (self._with_digest(registry, digest_of(before)), before)):
                found = (await registry.manifest(reference)).data
                assert mentioned_digests(found) == mentioned_digests(expected)

        _run(registry, check)

    def test_what_is_absent_is_not_found(self, registry: Registry) -> None:
        """NotFound for a manifest, whether or not the repository exists; BlobNotFound for a blob."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            await _refused(NotFound, lambda: registry.manifest(one))
            await push_model(registry, one, b"{}")
            await _refused(NotFound, lambda: registry.manifest(self._reference(registry, "suite/one:other")))
            await _refused(NotFound, lambda: registry.manifest(self._with_digest(registry, digest_of(b"nothing"))))
            await _refused(BlobNotFound, lambda: fetched(registry, one, digest_of(b"nothing")))

        _run(registry, check)

    def test_a_blob_is_fetched_by_ranges(self, registry: Registry) -> None:
        """Any range, in chunks of at most 1 MiB."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            data = bytes(range(256)) * 10_000
            digest = await push_blob(registry, one, data)
            for start, end in ((0, None), (1_500_000, None), (10, 20), (5, 2_000_000), (7, 7), (0, len(data))):
                assert await fetched(registry, one, digest, start, end) == data[start:end]
            async with aclosing(registry.fetch(one, digest)) as chunks:
                assert all([0 < len(chunk) <= _MOST_BYTES async for chunk in chunks])

        _run(registry, check)

    def test_a_blob_is_written_in_pieces(self, registry: Registry) -> None:
        """The blob exists after `commit`, not before."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            digest = digest_of(b"abcdef")
            writer = await registry.begin(one, digest, 6)
            await writer.write(b"abc")
            await writer.write(b"def")
            await _refused(BlobNotFound, lambda: fetched(registry, one, digest))
            await writer.commit()
            assert await fetched(registry, one, digest) == b"abcdef"

        _run(registry, check)

    @pytest.mark.parametrize(
        ("data", "error"),
        [(b"abcdeX", DigestMismatch), (b"abcde", SourceError), (b"abcdefg", SourceError)],
        ids=["other bytes", "too few", "too many"],
    )
    def test_a_blob_is_what_was_announced(self, registry: Registry, data: bytes, error: type[CorralError]) -> None:
        """Wrong bytes, too few or too many are refused, and nothing is published."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            digest = digest_of(b"abcdef")
            writer = await registry.begin(one, digest, 6)

            async def write() -> None:
                await writer.write(data)
                await writer.commit()

            await _refused(error, write)
            await writer.abort()
            await _refused(BlobNotFound, lambda: fetched(registry, one, digest))

        _run(registry, check)

    def test_an_aborted_blob_is_gone(self, registry: Registry) -> None:
        """Nothing is published, the writer is closed, and another one can write the same blob."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            writer = await registry.begin(one, digest_of(b"abcdef"), 6)
            await writer.write(b"abcdef")
            await writer.abort()
            await writer.abort()
            await _refused(SourceError, writer.commit)
            await _refused(SourceError, lambda: writer.write(b"g"))
            await _refused(BlobNotFound, lambda: fetched(registry, one, digest_of(b"abcdef")))
            await push_blob(registry, one, b"abcdef")
            assert await fetched(registry, one, digest_of(b"abcdef")) == b"abcdef"

        _run(registry, check)

    def test_a_committed_blob_outlives_its_writer(self, registry: Registry) -> None:
        """`abort` after `commit` does nothing."""

        async def check() -> None:
            one = self._reference(registry, "suite/one:first")
            writer = await registry.begin(one, digest_of(b"abcdef"), 6)
            await writer.write(b"abcdef")
            await writer.commit()
            await writer.abort()
            assert await fetched(registry, one, digest_of(b"abcdef")) == b"abcdef"

        _run(registry, check)

    def test_a_blob_is_mounted(self, registry: Registry) -> None:
        """If `mount` returns True, the blob is there. True if it was there already; False if it is nowhere."""

        async def check() -> None:
            one, two = self._reference(registry, "suite/one:first"), self._reference(registry, "suite/two:first")
            digest = await push_blob(registry, one, b"weights")
            if await registry.mount(two, digest, one):
                assert await fetched(registry, two, digest) == b"weights"
            assert not await registry.mount(two, digest_of(b"nothing"), one)
            assert await registry.mount(one, digest, two)

        _run(registry, check)

    def test_a_manifest_comes_after_its_blobs(self, registry: Registry) -> None:
        """A manifest that names a blob which the repository lacks is refused, and not published."""

        async def check() -> None:
            one, two = self._reference(registry, "suite/one:first"), self._reference(registry, "suite/two:first")
            manifest = await push_model(registry, one, b"{}", ("x/weights", b"weights"))
            await _refused(SourceError, lambda: registry.put(two, manifest, _MANIFEST_TYPE))
            await _refused(NotFound, lambda: registry.manifest(two))

        _run(registry, check)

    def _reference(self, registry: Registry, rest: str) -> Reference:
        return parse_reference(f"{registry.schemes[0]}://{self.prefix}{rest}")

    def _with_digest(self, registry: Registry, digest: Digest) -> Reference:
        return self._reference(registry, f"suite/one@{digest}")


def _run(registry: Registry, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs the check in an event loop of its own, and closes the registry there, twice."""

    async def run() -> None:
        try:
            await check()
        finally:
            await registry.aclose()
            await registry.aclose()

    asyncio.run(run())


async def _refused(error: type[CorralError], work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    with pytest.raises(error):
        await work()
