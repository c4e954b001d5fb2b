"""Gives an engine the files of a model: blobs, and for a model of several files one folder with their paths.

Native code trusts the headers of the files that it loads. So each file of a known format is read here first, whatever
its role, and refused if its header is; a projector only if its format is known. So is an adapter that does not fit the
weights.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from corral.core.catalog.adapter_fit import check_adapters
from corral.core.catalog.inspection import WeightsInspector
from corral.core.errors import InvalidModelFile
from corral.core.models.model import ModelFile, StoredModel
from corral.core.ports.blobs import LocalBlobs
from corral.core.specs.engines import LocalFile

__all__ = ("displayed_files", "loadable_files")

_log = logging.getLogger(__name__)


def displayed_files(record: StoredModel, local: LocalBlobs) -> tuple[LocalFile, ...]:
    """The files an engine loads, weights first, where their blobs are or would be."""
    return tuple(
        LocalFile(role=file.role, path=str(local.path(file.digest)), name=file.path, scale=file.scale)
        for file in record.loaded_files
    )


@asynccontextmanager
async def loadable_files(
    record: StoredModel, local: LocalBlobs, inspector: WeightsInspector
) -> AsyncIterator[tuple[LocalFile, ...]]:
    """What `ModelCatalog.loadable_files` promises."""
    files = [file for file in record.loaded_files if await _is_safe(record, file, inspector)]
    if record.weights is not None:
        adapters = {file.digest: file.path or file.digest for file in files if file.role == "adapter"}
        await check_adapters(inspector, record.name.short, record.weights.digest, adapters)
    placed = {file.path: file.digest for file in files if file.path is not None}
    async with AsyncExitStack() as pins:
        folder = await local.folder(record.digest, placed) if placed else None
        found = []
        for file in files:
            if folder is not None and file.path is not None:
                path = folder / file.path
            else:
                path = await pins.enter_async_context(local.local(file.digest))
            found.append(
                LocalFile(role=file.role, path=str(path), name=file.path, digest=file.digest, scale=file.scale)
            )
        yield tuple(found)


async def _is_safe(record: StoredModel, file: ModelFile, inspector: WeightsInspector) -> bool:
    """Raises `InvalidModelFile` if the file's header is refused. False for a projector that must not be loaded: the
    model works without it, but for images."""
    try:
        metadata = await inspector.metadata(file.digest)
    except InvalidModelFile as error:
        if file.role != "projector":
            raise
        _log.warning("%s is loaded without its projector: %s", record.name.short, error)
        return False
    if metadata is None and file.role == "projector":
        _log.warning("%s is loaded without its projector %s, whose format is unknown", record.name.short, file.digest)
        return False
    return True
