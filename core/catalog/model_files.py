"""Gives an engine the files of a model: blobs, and for a model of several files one folder with their paths."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from corral.core.models.model import StoredModel
from corral.core.ports.blobs import LocalBlobs
from corral.core.specs.engines import LocalFile

__all__ = ("displayed_files", "loadable_files")


def displayed_files(record: StoredModel, local: LocalBlobs) -> tuple[LocalFile, ...]:
    """The files an engine loads, weights first, where their blobs are or would be."""
    return tuple(
        LocalFile(role=file.role, path=str(local.path(file.digest)), name=file.path) for file in record.loaded_files
    )


@asynccontextmanager
async def loadable_files(record: StoredModel, local: LocalBlobs) -> AsyncIterator[tuple[LocalFile, ...]]:
    """What `ModelCatalog.loadable_files` promises."""
    files = record.loaded_files
    placed = {file.path: file.digest for file in files if file.path is not None}
    async with AsyncExitStack() as pins:
        folder = await local.folder(record.digest, placed) if placed else None
        found = []
        for file in files:
            if folder is not None and file.path is not None:
                path = folder / file.path
            else:
                path = await pins.enter_async_context(local.local(file.digest))
            found.append(LocalFile(role=file.role, path=str(path), name=file.path))
        yield tuple(found)
