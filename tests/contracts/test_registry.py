"""The memory registry keeps every promise of its port; for each promise there is a registry that breaks only it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec
import pytest

from corral.adapters.registries import memory
from corral.core.errors import DigestMismatch, NotFound, SourceError
from corral.core.models.digests import Digest, digest_of
from corral.core.models.references import Reference
from corral.core.ports.registries import Registry, RemoteManifest
from corral.plugins.testing.registry import MemoryRegistry, RegistryContract


class TestMemoryRegistry(RegistryContract):
    @pytest.fixture
    def registry(self) -> Registry:
        return MemoryRegistry()


class Respelt(MemoryRegistry):
    """Re-encodes a manifest instead of keeping its bytes."""

    async def manifest(self, reference: Reference) -> RemoteManifest:
        found = await super().manifest(reference)
        data = msgspec.json.format(found.data, indent=0)
        return msgspec.structs.replace(found, data=data)


class Gullible(MemoryRegistry):
    """Publishes a manifest under a digest that is not its own."""

    async def put(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        return await super().put(msgspec.structs.replace(reference, digest=None), data, media_type)


class FirstComeFirst(MemoryRegistry):
    """Never moves a tag."""

    async def put(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        before = self._repositories[reference.repository].tags.get(reference.tag)
        digest = await super().put(reference, data, media_type)
        if before is not None:
            self._repositories[reference.repository].tags[reference.tag] = before
        return digest


class Vague(MemoryRegistry):
    """Raises its own kind of error for anything absent."""

    async def manifest(self, reference: Reference) -> RemoteManifest:
        try:
            return await super().manifest(reference)
        except NotFound as error:
            if reference.path == "suite/two":
                raise
            raise SourceError(error.message) from error


class WholeBlobs(MemoryRegistry):
    """Ignores the end of a range."""

    async def fetch(
        self, reference: Reference, blob: Digest, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        async for chunk in super().fetch(reference, blob, start, None):
            yield chunk


class WithUploads(MemoryRegistry):
    upload: type[memory._Upload]

    async def begin(self, reference: Reference, blob: Digest, size_bytes: int) -> Any:
        return self.upload(self._repositories[reference.repository].blobs, blob, size_bytes)


class Hasty(WithUploads):
    """Exposes a blob as soon as all its bytes are there, before the commit."""

    class upload(memory._Upload):  # the attribute of the base
        async def write(self, data: bytes) -> None:
            await super().write(data)
            if self._data is not None and digest_of(bytes(self._data)) == self._digest and len(data) < self._size_bytes:
                self._blobs[self._digest] = bytes(self._data)


class Trusting(WithUploads):
    """Does not check uploaded bytes against the announced digest."""

    class upload(memory._Upload):
        async def commit(self) -> None:
            try:
                await super().commit()
            except DigestMismatch:
                self._blobs[self._digest] = b"abcdeX"


class Lingering(WithUploads):
    """An aborted upload can still be committed."""

    class upload(memory._Upload):
        async def abort(self) -> None:
            pass


class Thorough(WithUploads):
    """An abort takes a committed blob back."""

    class upload(memory._Upload):
        async def abort(self) -> None:
            self._blobs.pop(self._digest, None)
            await super().abort()


class Boastful(MemoryRegistry):
    """Claims to have mounted a blob that it does not have."""

    async def mount(self, reference: Reference, blob: Digest, source: Reference) -> bool:
        await super().mount(reference, blob, source)
        return True


class Careless(MemoryRegistry):
    """Publishes manifests without their blobs."""

    async def put(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        repository = self._repositories[reference.repository]
        repository.manifests[digest_of(data)] = RemoteManifest(data=data, media_type=media_type)
        try:
            return await super().put(reference, data, media_type)
        except SourceError:
            repository.tags[reference.tag] = digest_of(data)
            return digest_of(data)


BROKEN: dict[type[MemoryRegistry], str] = {
    Respelt: "a_manifest_comes_back_as_it_was",
    Gullible: "a_manifest_has_the_digest_of_its_bytes",
    FirstComeFirst: "a_tag_moves",
    Vague: "what_is_absent_is_not_found",
    WholeBlobs: "a_blob_is_fetched_by_ranges",
    Hasty: "a_blob_is_written_in_pieces",
    Trusting: "a_blob_is_what_was_announced",
    Lingering: "an_aborted_blob_is_gone",
    Thorough: "a_committed_blob_outlives_its_writer",
    Boastful: "a_blob_is_mounted",
    Careless: "a_manifest_comes_after_its_blobs",
}


def promises() -> Iterator[str]:
    return (
        name.removeprefix("test_")
        for name, _ in inspect.getmembers(RegistryContract, inspect.isfunction)
        if name.startswith("test_")
    )


def keeps(kind: type[MemoryRegistry], promise: str) -> bool:
    """Whether a fresh registry passes the test."""
    test = getattr(RegistryContract(), f"test_{promise}")
    arguments = {"data": b"abcdeX", "error": DigestMismatch} if promise == "a_blob_is_what_was_announced" else {}
    try:
        test(kind(), **arguments)
    except (Exception, pytest.fail.Exception):
        return False
    return True


def test_every_promise_has_a_registry_that_breaks_it() -> None:
    """Every test is failed by some broken registry."""
    assert sorted(BROKEN.values()) == sorted(promises())


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_registry_fails_its_own_test_alone(kind: type[MemoryRegistry]) -> None:
    """It keeps all its other promises."""
    assert [promise for promise in promises() if not keeps(kind, promise)] == [BROKEN[kind]]
