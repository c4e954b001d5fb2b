"""Keeps a blob's file on the disk while it is in use, even if another process deletes the blob."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from corral.adapters.stores.workspaces import workspace
from corral.adapters.system.blocking_work import in_thread
from corral.core.errors import BlobNotFound, StorageError

__all__ = ("pinned",)


@asynccontextmanager
async def pinned(path: Path, parent: Path) -> AsyncIterator[Path]:
    """A second name of the file `path`, in a folder of `parent` that is removed with the context.

    The bytes stay until both names are gone, even if another process deletes the first one. Where hard links are not
    possible, as in a read-only store, it is `path` itself. Raises `BlobNotFound` if `path` is gone.
    """
    async with AsyncExitStack() as held:
        try:
            folder = await held.enter_async_context(workspace(parent))
            name = folder / path.name
            await in_thread(lambda _: os.link(os.path.realpath(path), name))
        except FileNotFoundError as error:
            raise BlobNotFound(f"{path} was deleted by another process", "import or pull the model again") from error
        except (OSError, StorageError):
            name = path
        yield name
