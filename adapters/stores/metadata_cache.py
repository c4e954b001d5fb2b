"""Remembers on disk what the headers of weights say, so that a new process does not read them again."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.files import make_folder, replace_file
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata
from corral.core.regular_files import read_regular

__all__ = ("FilesystemMetadataCache",)

_LIMIT_BYTES = 4 * 1024 * 1024
_GENERATION = 5
"""Increased when a reader starts to fill a field differently, or to refuse what it accepted: engines load what was
accepted. New fields are noticed without it."""


class _Entry(msgspec.Struct, frozen=True):
    generation: int
    fields: tuple[str, ...]
    metadata: msgspec.Raw


class FilesystemMetadataCache:
    """``<root>/.corral/metadata/<hex>``, beside the store. Safe for many processes."""

    def __init__(self, root: Path) -> None:
        self._folders = StoreFolders(root)

    async def get(self, digest: Digest) -> ModelMetadata | None:
        def work(_: threading.Event) -> ModelMetadata | None:
            try:
                entry = msgspec.msgpack.decode(read_regular(self._path(digest), _LIMIT_BYTES), type=_Entry)
                if (entry.generation, entry.fields) != (_GENERATION, ModelMetadata.__struct_fields__):
                    return None
                return msgspec.msgpack.decode(entry.metadata, type=ModelMetadata)
            except (OSError, *MALFORMED):
                return None

        return await in_thread(work)

    async def put(self, digest: Digest, metadata: ModelMetadata) -> None:
        def work(_: threading.Event) -> None:
            with suppress(OSError, OverflowError, TypeError, ValueError):  # a number beyond 64 bits, a lone surrogate
                raw = msgspec.Raw(msgspec.msgpack.encode(metadata))
                entry = _Entry(_GENERATION, ModelMetadata.__struct_fields__, raw)
                make_folder(self._folders.metadata)
                data = msgspec.msgpack.encode(entry)
                replace_file(self._path(digest), data, self._folders.scratch, durable=False)

        await in_thread(work)

    def _path(self, digest: Digest) -> Path:
        return self._folders.metadata / digest.partition(":")[2]
