"""The index of an OCI image layout: ``index.json``, read tolerantly, remembered, and replaced in one step.

Source: github.com/opencontainers/image-spec, image-layout.md and image-index.md.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from corral.adapters.stores.adoption import Fingerprint, fingerprint_of
from corral.adapters.stores.unchanged import settled
from corral.adapters.system.files import make_folder, new_file, replace_file, storage_errors, sync_folder, write_all
from corral.adapters.system.local_disk import on_local_disk
from corral.core.errors import StorageError
from corral.core.malformed import MALFORMED
from corral.core.regular_files import read_regular
from corral.core.values import Value

__all__ = ("IndexContent", "LayoutIndex")

_LIMIT_BYTES = 64 * 1024 * 1024
_MARK_LIMIT_BYTES = 64 * 1024
_TYPE = "application/vnd.oci.image.index.v1+json"
_EMPTY = b'{"schemaVersion":2,"mediaType":"' + _TYPE.encode() + b'","manifests":[]}'
_MARK = b'{"imageLayoutVersion":"1.0.0"}'
_ATTEMPTS, _PAUSE_S = 5, 0.01  # other tools write the index in place, in far less than this


class IndexContent(Value, frozen=True, kw_only=True):
    """An index as it was read: its fields, and its entries (descriptors), each as the JSON that was there."""

    fields: dict[str, msgspec.Raw]
    entries: tuple[msgspec.Raw, ...]


class _Mark(msgspec.Struct, frozen=True, rename="camel"):
    image_layout_version: str = ""


class LayoutIndex:
    """``<root>/index.json`` beside ``<root>/oci-layout``. Every method blocks; the caller of `replace` holds a lock."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.path = root / "index.json"
        self._blobs = root / "blobs" / "sha256"
        self._mark = root / "oci-layout"
        self._scratch = scratch
        self._known: tuple[Fingerprint, IndexContent, bool] | None = None

    def read(self) -> IndexContent:
        """An index without entries if there is none yet. Raises `StorageError` for one that is malformed."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._read()
            except MALFORMED as fault:
                if attempt == _ATTEMPTS - 1:
                    raise StorageError(
                        f"{self.path} is not the index of an OCI image layout: {fault}",
                        "restore it, or move the folder away",
                    ) from fault
                time.sleep(_PAUSE_S)  # another tool is writing it
        raise AssertionError

    def unchanged(self) -> IndexContent | None:
        """What `read` would return, if one `stat` on a local disk is enough to know; then it needs no thread."""
        if self._known is None:
            return None
        fingerprint, content, is_local = self._known
        return content if is_local and self._has(fingerprint) else None

    def is_marked(self) -> bool:
        """Whether the folder is marked. Raises `StorageError` for a version that this module does not know."""
        try:
            data = read_regular(self._mark, _MARK_LIMIT_BYTES)
        except FileNotFoundError:
            return False
        try:
            version = msgspec.json.decode(data, type=_Mark).image_layout_version
        except MALFORMED:
            version = ""
        if not version.startswith("1."):
            raise StorageError(f"{self._mark} does not say that this is an OCI image layout of version 1")
        return True

    def prepare(self) -> None:
        """Creates an image layout without entries, unless it is there. Raises `OSError`, and `StorageError` for another
        version of layouts, and for one that has lost its index."""
        make_folder(self._mark.parent)
        if not self.is_marked():
            replace_file(self._mark, _MARK, self._scratch)
        if not os.path.lexists(self.path):
            self._refuse_lost()
            self._create()

    def replace(self, content: IndexContent, entries: Sequence[msgspec.Raw]) -> None:
        """Writes the fields of `content` with these entries. Raises `OSError`."""
        manifests = msgspec.Raw(msgspec.json.encode(entries))
        replace_file(self.path, msgspec.json.encode(content.fields | {"manifests": manifests}), self._scratch)

    def _create(self) -> None:
        """In one step, so that a process that is killed leaves no half index, and only if there is none yet."""
        make_folder(self._scratch)
        scratch = self._scratch / f"{self.path.name}.{uuid.uuid4().hex}"
        try:
            with new_file(scratch) as file:
                write_all(file, _EMPTY)
                os.fsync(file.fileno())
            try:
                os.link(scratch, self.path)
            except FileExistsError:
                return
            except OSError:  # a file system without links
                if not os.path.lexists(self.path):
                    os.replace(scratch, self.path)
        finally:
            scratch.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def _read(self) -> IndexContent:
        known = self._known
        if known is not None and self._has(known[0]):
            return known[1]
        now_ns = time.time_ns()
        with storage_errors(f"cannot read {self.path}"):
            try:
                fingerprint = fingerprint_of(os.stat(self.path))  # before reading: a write meanwhile invalidates it
                data = read_regular(self.path, _LIMIT_BYTES)
            except FileNotFoundError:
                self._refuse_lost()
                return _parsed(_EMPTY)
            self.is_marked()
        content = _parsed(data)
        if settled(fingerprint, now_ns):
            self._known = fingerprint, content, on_local_disk(self.path)
        return content

    def _refuse_lost(self) -> None:
        """An index that is missing beside blobs is not an empty one: they might all be a model's."""
        with suppress(FileNotFoundError):
            if any(self._blobs.iterdir()):
                raise StorageError(f"{self.path} is missing, but there are blobs", "restore it, or move the blobs away")

    def _has(self, fingerprint: Fingerprint) -> bool:
        try:
            return fingerprint_of(os.stat(self.path)) == fingerprint
        except OSError:
            return False


def _parsed(data: bytes) -> IndexContent:
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    entries = msgspec.json.decode(fields.get("manifests", b"[]"), type=list[msgspec.Raw] | None) or ()
    return IndexContent(fields=fields, entries=tuple(msgspec.Raw(bytes(entry)) for entry in entries))
