"""What loading and converting need of the models in a store: `LoadableModels`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.specs.engines import LocalFile

__all__ = ("LoadableModels",)


class LoadableModels(Protocol):
    """The models of a store, ready to be opened. `ModelCatalog` implements it."""

    async def metadata(self, record: StoredModel) -> ModelMetadata | None:
        """What the weights say about themselves; None without weights, or if no reader knows their format.

        Raises `BlobNotFound`, `InvalidModelFile`.
        """
        ...

    def loadable_files(self, record: StoredModel) -> AbstractAsyncContextManager[tuple[LocalFile, ...]]:
        """The files that an engine opens, weights first; they stay while the context lasts.

        That is so even if the model is deleted. Those of a folder model are in one folder, under their paths. Raises
        `BlobNotFound` if one is missing, `StorageError`.
        """
        ...
