"""The registry port: remote manifests and blobs, to pull and to push."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from corral.core.models.digests import Digest
from corral.core.models.references import Reference
from corral.core.values import Value

__all__ = ("Registry", "RemoteManifest", "RemoteWriter")


class RemoteManifest(Value, frozen=True, kw_only=True):
    """A manifest as the registry has it, byte for byte. Its `ManifestFormat` knows which blobs it names.

    `index` is the index that the reference led to, if the manifest was chosen from one.
    """

    data: bytes
    media_type: str
    index: bytes | None = None


class RemoteWriter(Protocol):
    """A blob that is being sent to a registry.

    The caller of `begin` calls `commit` or `abort`; after either, `write` and `commit` raise `SourceError`.
    """

    async def write(self, data: bytes) -> None:
        """The next bytes. Raises `SourceError`, also past the announced size."""
        ...

    async def commit(self) -> None:
        """Publishes the blob. Publishes nothing if it raises `DigestMismatch`, or `SourceError` for missing bytes."""
        ...

    async def abort(self) -> None:
        """Drops what was written. Safe to call twice, and after `commit`, when it does nothing."""
        ...


class Registry(Protocol):
    """Remote manifests and blobs, such as those of an OCI registry. Used in one event loop.

    Everything raises `SourceError` with the registry's own message if it refuses, when trying again does not help;
    `SourceUnavailable` if it cannot be reached, breaks off or is busy; `SourceStalled` if nothing arrives for too long.
    """

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes of the references that it reads. The first is its name."""
        ...

    async def manifest(self, reference: Reference) -> RemoteManifest:
        """The manifest with the reference's digest, or else its tag. Raises `NotFound`."""
        ...

    def fetch(
        self, reference: Reference, blob: Digest, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Chunks of at most 1 MiB, from byte `start` up to but without `end`. The caller closes the generator.

        Raises at the first chunk: `BlobNotFound`, and `RangesIgnored` if the registry sends a blob only from its
        beginning and `start` is not 0. Raises `SourceUnavailable` after the last chunk that arrived if the blob breaks
        off: the caller may ask for the rest.
        """
        ...

    async def mount(self, reference: Reference, blob: Digest, source: Reference) -> bool:
        """Adds a blob of the repository `source` to the repository of `reference`, without sending its bytes.

        True also if it is there already. False if the registry cannot do it: the blob must be written.
        """
        ...

    async def begin(self, reference: Reference, blob: Digest, size_bytes: int) -> RemoteWriter:
        """Starts to write a blob to the repository of `reference`."""
        ...

    async def put(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        """Publishes a manifest whose blobs are there already, under its digest and the reference's tag.

        An existing tag is moved. Raises `DigestMismatch` if the reference has another digest.
        """
        ...

    async def aclose(self) -> None:
        """Closes its connections. Safe to call twice; nothing else is called after it."""
        ...
