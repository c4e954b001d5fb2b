"""Manifests in an OCI image layout: entries of ``index.json``, readable by every tool that knows such layouts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, suppress

import msgspec

from corral.adapters.stores.manifest_files import LATEST_S
from corral.adapters.stores.manifest_paths import check_name
from corral.adapters.stores.oci_layout_contents import LayoutContents, LayoutState
from corral.adapters.stores.oci_layout_entries import LayoutModel, written_entry
from corral.adapters.stores.store_locks import StoreLocks
from corral.adapters.system.blocking_work import in_thread, stop_if_asked
from corral.adapters.system.files import storage_errors
from corral.core.errors import Conflict, StorageError
from corral.core.models.digests import Digest
from corral.core.models.names import ModelName
from corral.core.ports.manifests import ManifestEntry, StoredManifest

__all__ = ("OciLayoutManifests",)

_log = logging.getLogger(__name__)

_ATTEMPTS = 10  # to read a model that is being replaced all the time


class OciLayoutManifests:
    """Each model is an entry whose ``org.opencontainers.image.ref.name`` is the model's full name.

    Safe for concurrent tasks and for processes of Corral; other tools take no lock, so they must not write to the
    layout at the same time. Entries that are not models are left alone: they are not listed, and keep their blobs.
    """

    def __init__(self, contents: LayoutContents) -> None:
        self._contents = contents
        self._locks = StoreLocks(contents.folders)
        self._complained = set[Digest]()

    async def get(self, name: ModelName) -> StoredManifest | None:
        check_name(name)
        state = self._contents.unchanged()  # one `stat`: a thread would cost much more
        model = state.find(name) if state is not None else None
        found = self._contents.unchanged_manifest(model.digest) if model is not None else None
        if model is not None and found is not None:
            return _stored(model, *found)
        return await in_thread(lambda _: self._look_up(name))

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        check_name(name)
        async with self._locks.changes():
            return await in_thread(lambda _: self._put(name, data, if_digest))

    async def delete(self, name: ModelName) -> bool:
        check_name(name)
        async with self._locks.changes():
            return await in_thread(lambda _: self._delete(name))

    async def list(self, *, strict: bool = False) -> AsyncGenerator[ManifestEntry, None]:
        for entry in await in_thread(lambda stop: self._entries(strict, stop)):
            yield entry

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        return self._locks.guard(exclusive=exclusive)

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        return self._locks.claim(name)

    def _look_up(self, name: ModelName) -> StoredManifest | None:
        model = self._contents.state().find(name)
        for _ in range(_ATTEMPTS):
            if model is None:
                return None
            try:
                return self._read(model)
            except StorageError:
                known, model = model, self._contents.state().find(name)
                if known == model:
                    raise
        raise Conflict(f"'{name}' is being changed all the time", "try again later")

    def _read(self, model: LayoutModel) -> StoredManifest:
        found = self._contents.manifest(model.digest)
        if found is None:
            raise StorageError(f"the manifest {model.digest} of '{model.name}' is missing", "pull or import it again")
        return _stored(model, *found)

    def _entries(self, strict: bool, stop: threading.Event) -> Sequence[ManifestEntry]:
        found = []
        for model in self._contents.state().all():
            stop_if_asked(stop)
            try:
                stored = self._read(model)
            except StorageError as error:
                if strict:
                    raise
                if model.digest not in self._complained:
                    self._complained.add(model.digest)
                    _log.warning("skipping a manifest: %s", error)
                continue
            found.append(ManifestEntry(name=stored.name, digest=stored.digest, modified_at=stored.modified_at))
        return found

    def _put(self, name: ModelName, data: bytes, if_digest: Digest | None) -> StoredManifest:
        with storage_errors(f"cannot store '{name}' in {self._contents.folders.root}"):
            self._contents.prepare()
            state = self._contents.state()
            known = state.find(name)
            if if_digest is not None and (known is None or known.digest != if_digest):
                raise Conflict(
                    f"'{name}' was changed by another process or task",
                    "check its current state, then repeat the change",
                )
            _refuse_taken(name, state)
            replaced = None
            if known is not None:
                with suppress(StorageError):  # an unreadable manifest is replaced anyway
                    replaced = self._read(known).data
            self._contents.add_manifest(data)
            entry, model = written_entry(name if known is None else known.name, data, time.time())
            self._change(name, state, [*state.others(name), entry])
        return msgspec.structs.replace(self._read(model), replaced=replaced)

    def _delete(self, name: ModelName) -> bool:
        with storage_errors(f"cannot delete '{name}' from {self._contents.folders.root}"):
            state = self._contents.state()
            if name.key not in state.models:
                return False
            self._change(name, state, state.others(name))
        return True

    def _change(self, name: ModelName, state: LayoutState, entries: Sequence[msgspec.Raw]) -> None:
        """Writes the index, then deletes the manifests that no entry needs any more."""
        self._contents.replace(state, entries)
        left = self._contents.state()
        for digest in {model.digest for _, model in state.models.get(name.key, ())}:
            with suppress(StorageError):  # a blob that is left over does no harm
                self._contents.discard_manifest(digest, left)


def _stored(model: LayoutModel, data: bytes, file_modified_at: float) -> StoredManifest:
    modified_at = file_modified_at if model.modified_at is None else model.modified_at
    return StoredManifest(
        name=model.name, data=data, digest=model.digest, modified_at=min(max(modified_at, 0.0), LATEST_S)
    )


def _refuse_taken(name: ModelName, state: LayoutState) -> None:
    for entry in state.foreign:
        if entry.name is not None and entry.name.key == name.key:
            raise Conflict(
                f"the image layout has something under '{name}' that is not a model",
                "choose another name, or delete it with the tool that put it there",
            )
