"""What an OCI image layout holds: the models in its index, their manifests, and what belongs to other programs."""

from __future__ import annotations

import io
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from corral.adapters.stores.adoption import Fingerprint, fingerprint_of
from corral.adapters.stores.oci_layout_entries import REF_NAME, IndexEntry, LayoutModel, model_of
from corral.adapters.stores.oci_layout_index import IndexContent, LayoutIndex
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.files import make_folder, replace_file, storage_errors
from corral.core.errors import StorageError
from corral.core.lru import SizedLruDict
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, digest_of, mentioned_digests, parse_digest
from corral.core.models.names import ModelName
from corral.core.regular_files import open_regular
from corral.core.values import Value

__all__ = ("LayoutContents", "LayoutState")

_log = logging.getLogger(__name__)

_LIMIT_BYTES = 4 * 1024 * 1024
_REMEMBERED_BYTES = 8 * 1024 * 1024  # of all manifests together
_OVERHEAD_BYTES = 512


class LayoutState(Value, frozen=True, kw_only=True):
    """An index, and what its entries are. `models` has them by key, each with its place among the entries."""

    content: IndexContent
    models: Mapping[str, Sequence[tuple[int, LayoutModel]]]
    foreign: tuple[IndexEntry, ...]

    def find(self, name: ModelName) -> LayoutModel | None:
        """The model of this name: in this spelling if there are several, which other tools can write."""
        found = [model for _, model in self.models.get(name.key, ())]
        return next((model for model in found if model.name.parts == name.parts), found[0] if found else None)

    def all(self) -> Sequence[LayoutModel]:
        """One model for each key, in the order of the index."""
        places = sorted(found[0] for found in self.models.values())
        return [model for _, model in sorted(places, key=lambda place: place[0])]

    def others(self, name: ModelName) -> list[msgspec.Raw]:
        """All entries but those of the model."""
        own = {place for place, _ in self.models.get(name.key, ())}
        return [entry for place, entry in enumerate(self.content.entries) if place not in own]


class _Children(msgspec.Struct, frozen=True):
    manifests: list[IndexEntry] = []


class LayoutContents:
    """``<root>/index.json`` and ``<root>/blobs/sha256``. Every method blocks, apart from `unchanged` and `path`."""

    def __init__(self, root: Path) -> None:
        self.folders = StoreFolders(root)
        self.blobs = self.folders.blobs / "sha256"
        self._index = LayoutIndex(self.folders.root, self.folders.scratch)
        self._state: LayoutState | None = None
        self._manifests: SizedLruDict[Digest, tuple[Fingerprint, bytes]] = SizedLruDict(_REMEMBERED_BYTES)
        self._mentioned = set[str]()

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be. Raises `InvalidDigest`."""
        return self.blobs / parse_digest(digest).partition(":")[2]

    def check(self) -> None:
        """Raises `StorageError` for a folder with something else in it, which must not be mixed with a layout."""
        root, own = self.folders.root, self.folders.own
        with storage_errors(f"cannot read {root}"), suppress(FileNotFoundError):
            if set(os.listdir(root)) - {own.name} and not self._index.is_marked():
                raise StorageError(
                    f"{root} is not an OCI image layout: it has no file oci-layout", "choose another, or a new folder"
                )

    def prepare(self) -> None:
        """Creates the layout unless it is there. Raises `OSError`, `StorageError`."""
        self._index.prepare()
        make_folder(self.blobs)

    def state(self) -> LayoutState:
        """Raises `StorageError` if the index cannot be read."""
        content = self._index.read()
        known = self._state
        if known is None or known.content is not content:
            known = self._state = self._sorted(content)
        return known

    def unchanged(self) -> LayoutState | None:
        """What `state` would return, if that is known without a thread."""
        content = self._index.unchanged()
        known = self._state
        return known if content is not None and known is not None and known.content is content else None

    def replace(self, state: LayoutState, entries: Sequence[msgspec.Raw]) -> None:
        """Writes the index with these entries instead of those of `state`. The caller holds the lock for changes."""
        self._index.replace(state.content, entries)

    def manifest(self, digest: Digest) -> tuple[bytes, float] | None:
        """The bytes of a manifest and the time of its file in seconds since 1970; None if there is no such file.

        Raises `StorageError` for a file that is too large, or has other bytes.
        """
        known = self.unchanged_manifest(digest)
        if known is not None:
            return known
        path = self.path(digest)
        with storage_errors(f"cannot read the manifest {path}"):
            try:
                with io.BufferedReader(open_regular(path)) as file:
                    status = os.fstat(file.fileno())
                    data = file.read(_LIMIT_BYTES + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
        if len(data) > _LIMIT_BYTES:
            raise StorageError(f"the manifest {path} is larger than {_LIMIT_BYTES} bytes")
        if digest_of(data) != digest:
            raise StorageError(f"the manifest {path} has changed: its digest is {digest_of(data)}", "pull it again")
        self._manifests.put(digest, (fingerprint_of(status), data), len(data) + _OVERHEAD_BYTES)
        return data, status.st_mtime

    def unchanged_manifest(self, digest: Digest) -> tuple[bytes, float] | None:
        """As `manifest`, if one `stat` is enough to know."""
        known = self._manifests.get(digest)
        if known is None:
            return None
        try:
            status = os.stat(self.path(digest))
        except OSError:
            return None
        return (known[1], status.st_mtime) if fingerprint_of(status) == known[0] else None

    def add_manifest(self, data: bytes) -> None:
        """Stores a manifest as a blob. Raises `OSError`."""
        digest = digest_of(data)
        with suppress(StorageError):  # damaged: written again
            if self.manifest(digest) is not None:
                return
        replace_file(self.path(digest), data, self.folders.scratch)

    def discard_manifest(self, digest: Digest, state: LayoutState) -> None:
        """Deletes the blob of a manifest, unless an entry of `state` still needs it. Raises `StorageError`."""
        if digest in self.kept_blobs(state):
            return
        for model in state.all():
            found = self.manifest(model.digest)
            if found is not None and digest in mentioned_digests(found[0]):
                return
        self.path(digest).unlink(missing_ok=True)

    def kept_blobs(self, state: LayoutState) -> frozenset[Digest]:
        """The blobs that are not those of a model: every manifest in the index, and all that belongs to others.

        Raises `StorageError` if it cannot be told what belongs to others.
        """
        kept = {model.digest for models in state.models.values() for _, model in models}
        seen, queue = set[Digest](), list(state.foreign)
        while queue:
            entry = queue.pop()
            digest = entry.parsed_digest
            if digest is None or digest in seen:
                continue
            seen.add(digest)
            found = self.manifest(digest) if entry.names_blobs else None
            if found is not None:
                kept |= mentioned_digests(found[0])
                queue += _children(found[0])
        return frozenset(kept | seen)

    def _sorted(self, content: IndexContent) -> LayoutState:
        models: defaultdict[str, list[tuple[int, LayoutModel]]] = defaultdict(list)
        foreign = []
        for place, raw in enumerate(content.entries):
            try:
                entry = msgspec.json.decode(raw, type=IndexEntry)
            except MALFORMED:
                foreign += [IndexEntry(digest=digest) for digest in mentioned_digests(bytes(raw))]
                continue
            model = model_of(entry, self._bytes)
            if model is not None:
                models[model.name.key].append((place, model))
            else:
                foreign.append(entry)
                self._mention(entry)
        return LayoutState(content=content, models=dict(models), foreign=tuple(foreign))

    def _bytes(self, digest: Digest) -> bytes | None:
        found = self.manifest(digest)
        return None if found is None else found[0]

    def _mention(self, entry: IndexEntry) -> None:
        """Logs once what is in the layout and is not a model."""
        named = entry.annotation(REF_NAME) or entry.digest
        if named not in self._mentioned:
            self._mentioned.add(named)
            _log.info("leaving alone what is not a model in %s: %.200r", self._index.path, named)


def _children(index: bytes) -> list[IndexEntry]:
    """The entries of an index that is an entry itself, as for an image of several platforms."""
    try:
        return msgspec.json.decode(index, type=_Children).manifests
    except MALFORMED:
        return []
