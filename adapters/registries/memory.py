"""A registry in memory, for tests and as an example."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator

from corral.core.errors import BlobNotFound, DigestMismatch, NotFound, SourceError
from corral.core.models.digests import Digest, digest_of, mentioned_digests
from corral.core.models.references import Reference
from corral.core.ports.registries import RemoteManifest, RemoteWriter

__all__ = ("MemoryRegistry",)

_CHUNK_BYTES = 1024 * 1024


class _Repository:
    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.manifests: dict[Digest, RemoteManifest] = {}
        self.tags: dict[str, Digest] = {}


class MemoryRegistry:
    """A `Registry` for the tasks of one event loop. Each repository has its own blobs."""

    def __init__(self, scheme: str = "mem") -> None:
        self.schemes = (scheme,)
        self._repositories: defaultdict[str, _Repository] = defaultdict(_Repository)

    async def manifest(self, reference: Reference) -> RemoteManifest:
        repository = self._repositories[reference.repository]
        digest = reference.digest or repository.tags.get(reference.tag)
        found = repository.manifests.get(digest) if digest else None
        if found is None:
            raise NotFound(f"'{reference}' is not in the registry", "check its name and its tag")
        return found

    async def fetch(
        self, reference: Reference, blob: Digest, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        data = self._repositories[reference.repository].blobs.get(blob)
        if data is None:
            raise BlobNotFound(f"'{reference}' has no blob {blob}")
        end = len(data) if end is None else min(end, len(data))
        for offset in range(start, end, _CHUNK_BYTES):
            yield data[offset : min(offset + _CHUNK_BYTES, end)]

    async def mount(self, reference: Reference, blob: Digest, source: Reference) -> bool:
        target = self._repositories[reference.repository].blobs
        data = self._repositories[source.repository].blobs.get(blob, target.get(blob))
        if data is None:
            return False
        target[blob] = data
        return True

    async def begin(self, reference: Reference, blob: Digest, size_bytes: int) -> RemoteWriter:
        return _Upload(self._repositories[reference.repository].blobs, blob, size_bytes)

    async def put(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        digest = digest_of(data)
        if reference.digest not in (None, digest):
            raise DigestMismatch(f'digest mismatch, expected "{reference.digest}", got "{digest}"')
        repository = self._repositories[reference.repository]
        missing = sorted(mentioned_digests(data) - set(repository.blobs))
        if missing:
            raise SourceError(f"the manifest names {missing[0]}, which the repository does not have", "push it first")
        repository.manifests[digest] = RemoteManifest(data=data, media_type=media_type)
        repository.tags[reference.tag] = digest
        return digest

    async def aclose(self) -> None:
        pass


class _Upload:
    def __init__(self, blobs: dict[Digest, bytes], digest: Digest, size_bytes: int) -> None:
        self._blobs = blobs
        self._digest = digest
        self._size_bytes = size_bytes
        self._data: bytearray | None = bytearray()

    async def write(self, data: bytes) -> None:
        written = self._open()
        if len(written) + len(data) > self._size_bytes:
            raise SourceError(f"the blob {self._digest} is longer than the announced {self._size_bytes} bytes")
        written += data

    async def commit(self) -> None:
        data = bytes(self._open())
        self._data = None
        if len(data) < self._size_bytes:
            raise SourceError(f"the blob {self._digest} is incomplete: {len(data)} of {self._size_bytes} bytes")
        found = digest_of(data)
        if found != self._digest:
            raise DigestMismatch(f'digest mismatch, expected "{self._digest}", got "{found}"')
        self._blobs[found] = data

    async def abort(self) -> None:
        self._data = None

    def _open(self) -> bytearray:
        if self._data is None:
            raise SourceError("this upload has ended", "begin another one")
        return self._data
