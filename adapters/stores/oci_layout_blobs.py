"""Where the blobs of an OCI image layout lie, and which of them are a model's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

from corral.adapters.stores.oci_layout_contents import LayoutContents
from corral.adapters.stores.store_locks import StoreLocks
from corral.adapters.system.files import storage_errors
from corral.core.errors import InvalidDigest
from corral.core.models.digests import Digest, parse_digest

__all__ = ("LayoutBlobFiles",)


class LayoutBlobFiles:
    """``blobs/sha256/<hex>``, the `BlobFiles` of an image layout.

    Manifests are blobs there too, as are the parts of images by other programs: they are neither listed nor deleted.
    """

    def __init__(self, contents: LayoutContents) -> None:
        self._contents = contents
        self._locks = StoreLocks(contents.folders)

    @property
    def folder(self) -> Path:
        return self._contents.blobs

    def path(self, digest: Digest) -> Path:
        return self._contents.path(digest)

    def prepare(self) -> None:
        self._contents.prepare()

    def digests(self) -> Sequence[Digest]:
        kept = self._contents.kept_blobs(self._contents.state())
        found = set[Digest]()
        with storage_errors(f"cannot list {self.folder}"), suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                with suppress(InvalidDigest):
                    found.add(parse_digest(f"sha256:{name}"))
        return sorted(found - kept)

    def delete(self, digest: Digest) -> bool:
        if digest in self._contents.kept_blobs(self._contents.state()):
            return False
        with suppress(FileNotFoundError):
            self.path(digest).unlink()
            return True
        return False

    def changing(self) -> AbstractAsyncContextManager[object]:
        return self._locks.changes()
