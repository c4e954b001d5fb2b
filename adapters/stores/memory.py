"""Stores in the memory of this process: for tests, and for programs without a folder of models."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec

from corral.adapters.stores.model_folders import ModelFolders
from corral.adapters.stores.ranges import Range, covers, merged
from corral.adapters.stores.workspaces import workspace
from corral.adapters.system.files import CHUNK_BYTES, storage_errors
from corral.core.errors import BlobNotFound, Conflict, DigestMismatch, StorageError
from corral.core.models.digests import Digest, digest_of, parse_digest
from corral.core.models.names import ModelName
from corral.core.ports.blobs import BlobInfo, BlobWriter, OnStored, ignore_digest
from corral.core.ports.manifests import ManifestEntry, StoredManifest

__all__ = ("MemoryBlobs", "MemoryManifests")


class MemoryBlobs:
    """Whole blobs in memory. `path` writes a blob to a temporary folder once; `close` removes that folder."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._modified_at: dict[Digest, float] = {}
        self._partials: dict[Digest, _Partial] = {}
        self._pins: Counter[Digest] = Counter()
        self._held: Counter[Digest] = Counter()
        self._folder: Path | None = None
        self._remove_folder: weakref.finalize[[str], MemoryBlobs] | None = None

    def close(self) -> None:
        """Deletes the files; the blobs stay. May be called twice."""
        if self._remove_folder is not None:
            self._remove_folder()
        self._folder = None

    async def stat(self, digest: Digest) -> BlobInfo | None:
        data = self._blobs.get(digest)
        return None if data is None else self._info(digest, data)

    async def read(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        data = self._blobs.get(digest)
        if data is None:
            raise BlobNotFound(f"blob {digest} not found")
        end = len(data) if end is None else min(end, len(data))
        for offset in range(start, end, CHUNK_BYTES):
            yield data[offset : min(offset + CHUNK_BYTES, end)]

    async def begin(self, digest: Digest | None = None, size_bytes: int | None = None) -> BlobWriter:
        if digest is None:
            return _MemoryWriter(self, None, _Partial(size_bytes))
        digest = parse_digest(digest)
        partial = self._partials.get(digest)
        if partial is not None and partial.held:
            raise Conflict(f"{digest} is being written by another task", "try again when that is done")
        if partial is None or size_bytes not in (None, partial.size_bytes):
            partial = self._partials[digest] = _Partial(size_bytes)
        partial.held = True
        return _MemoryWriter(self, digest, partial)

    async def partial(self, digest: Digest) -> Sequence[Range]:
        partial = self._partials.get(digest)
        return () if partial is None else tuple(partial.ranges)

    async def delete(self, digest: Digest) -> bool:
        if self._folder is not None and not self._pins[digest]:
            self.path(digest).unlink(missing_ok=True)
        return self._blobs.pop(digest, None) is not None

    async def list(self) -> AsyncIterator[BlobInfo]:
        for digest, data in tuple(self._blobs.items()):
            yield self._info(digest, data)

    async def hold(self, digest: Digest) -> None:
        self._held[parse_digest(digest)] += 1

    async def release(self, digest: Digest) -> None:
        self._held -= Counter({digest: 1})  # a count of 0 is dropped

    async def held(self) -> frozenset[Digest]:
        return frozenset(self._held)

    @asynccontextmanager
    async def local(self, digest: Digest) -> AsyncIterator[Path]:
        if digest not in self._blobs:
            raise BlobNotFound(f"the blob {digest} is missing", "import or pull the model again")
        path = self.path(digest)
        self._pins[digest] += 1
        try:
            yield path
        finally:
            self._pins[digest] -= 1
            if not self._pins[digest] and digest not in self._blobs:
                path.unlink(missing_ok=True)

    def path(self, digest: Digest) -> Path:
        path = self._root() / f"sha256-{parse_digest(digest).partition(':')[2]}"
        data = self._blobs.get(digest)
        if data is not None and not path.exists():
            path.write_bytes(data)
        return path

    async def adopt(self, file: Path, *, on_stored: OnStored = ignore_digest) -> BlobInfo:
        """Reads the whole file into memory."""
        with storage_errors(f"cannot add {file} to the store"):
            data = await asyncio.to_thread(file.read_bytes)
        digest = Digest("sha256:" + await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest()))
        blob = self.publish(digest, data)
        on_stored(digest)
        return blob

    async def folder(self, key: Digest, files: Mapping[str, Digest], *, elsewhere: Mapping[Digest, Path] = {}) -> Path:
        for path, digest in files.items():
            if digest not in elsewhere and digest not in self._blobs:
                raise BlobNotFound(f"the blob {digest} of {path!r} is missing", "import or pull the model again")
        blobs = {path: elsewhere.get(digest) or self.path(digest) for path, digest in files.items()}
        return await self._models().show(key, blobs)

    async def drop_folder(self, key: Digest) -> None:
        if self._folder is not None:
            await self._models().drop(key)

    def scratch(self) -> AbstractAsyncContextManager[Path]:
        return workspace(self._root() / "work")

    def _models(self) -> ModelFolders:
        return ModelFolders(self._root() / "folders", self._root() / "tmp")

    def _root(self) -> Path:
        if self._folder is None:
            folder = tempfile.mkdtemp(prefix="corral-blobs-")
            self._folder = Path(folder)
            self._remove_folder = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return self._folder

    def publish(self, digest: Digest, data: bytes) -> BlobInfo:
        """Publishes verified bytes as a blob. For this module's writer."""
        self._blobs[digest] = data
        self._modified_at[digest] = time.time()
        return self._info(digest, data)

    def _info(self, digest: Digest, data: bytes) -> BlobInfo:
        return BlobInfo(digest=digest, size_bytes=len(data), modified_at=self._modified_at[digest])

    def let_go(self, digest: Digest, *, keep: bool) -> None:
        """Ends a writer's hold on a partial. For this module's writer."""
        self._partials[digest].held = False
        if not keep:
            del self._partials[digest]


class _Partial:
    def __init__(self, size_bytes: int | None) -> None:
        self.size_bytes = size_bytes
        self.data = bytearray()
        self.ranges: builtins.list[Range] = []
        self.held = False


class _MemoryWriter:
    def __init__(self, store: MemoryBlobs, digest: Digest | None, partial: _Partial) -> None:
        self._store = store
        self._digest = digest
        self._partial = partial
        self._open = True

    @property
    def written(self) -> Sequence[Range]:
        return tuple(self._partial.ranges)

    async def write(self, offset_bytes: int, data: bytes) -> None:
        self._check_open()
        end = offset_bytes + len(data)
        partial = self._partial
        if offset_bytes < 0 or (partial.size_bytes is not None and end > partial.size_bytes):
            raise StorageError(f"bytes {offset_bytes} to {end} are outside a blob of {partial.size_bytes} bytes")
        partial.data.extend(bytes(max(0, end - len(partial.data))))
        partial.data[offset_bytes:end] = data
        partial.ranges = merged([*partial.ranges, (offset_bytes, end)])

    async def commit(self) -> BlobInfo:
        self._check_open()
        if not covers(self._partial.ranges, self._partial.size_bytes):
            raise StorageError(
                f"the blob is incomplete: it has {self._partial.ranges} of {self._partial.size_bytes} bytes"
            )
        data = bytes(self._partial.data)
        found = digest_of(data)
        self._let_go(keep=False)
        if self._digest not in (None, found):
            raise DigestMismatch(f'digest mismatch, expected "{self._digest}", got "{found}"', "fetch it again")
        return self._store.publish(found, data)

    async def abort(self) -> None:
        self._let_go(keep=False)

    async def close(self) -> None:
        self._let_go(keep=True)

    def _let_go(self, *, keep: bool) -> None:
        if self._open and self._digest is not None:
            self._store.let_go(self._digest, keep=keep)
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise StorageError("this writer is closed")


class MemoryManifests:
    """Manifests in memory, for the tasks of one event loop."""

    def __init__(self) -> None:
        self._stored: dict[str, StoredManifest] = {}
        self._changed = asyncio.Condition()
        self._holders = 0  # of the guard; -1 while it is held exclusively
        self._claims: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def get(self, name: ModelName) -> StoredManifest | None:
        return self._stored.get(name.key)

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        known = self._stored.get(name.key)
        if if_digest is not None and (known is None or known.digest != if_digest):
            raise Conflict(
                f"'{name}' was changed by another process or task", "check its current state, then repeat the change"
            )
        stored = StoredManifest(
            name=known.name if known else name, data=data, digest=digest_of(data), modified_at=time.time()
        )
        self._stored[name.key] = stored
        return msgspec.structs.replace(stored, replaced=None if known is None else known.data)

    async def delete(self, name: ModelName) -> bool:
        return self._stored.pop(name.key, None) is not None

    async def list(self, *, strict: bool = False) -> AsyncGenerator[ManifestEntry, None]:
        for stored in tuple(self._stored.values()):
            yield ManifestEntry(name=stored.name, digest=stored.digest, modified_at=stored.modified_at)

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        return self._guard(exclusive)

    @asynccontextmanager
    async def claim(self, name: ModelName) -> AsyncIterator[None]:
        lock = self._claims.get(name.key)
        if lock is None:
            lock = self._claims[name.key] = asyncio.Lock()
        async with lock:
            yield

    @asynccontextmanager
    async def _guard(self, exclusive: bool) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._holders == 0 if exclusive else self._holders >= 0)
            self._holders = -1 if exclusive else self._holders + 1
        try:
            yield
        finally:
            # No lock needed: nothing else runs between these two lines of one event loop.
            self._holders = 0 if exclusive else self._holders - 1
            await asyncio.shield(self._wake())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()
