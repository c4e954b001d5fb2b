"""Everything that answering a request needs to know about a model: `ModelView`."""

from __future__ import annotations

from corral.core.models.model import ModelMetadata, StoredModel
from corral.core.values import Value

__all__ = ("ModelView",)


class ModelView(Value, frozen=True, kw_only=True):
    """A model as it is stored now, what its weights say about it, and what it can do.

    `metadata` is None for an upstream, and for weights in a format that no reader knows. `capabilities` are in Ollama's
    words. The view says nothing about the files: whether they are still there is checked when they are loaded.
    """

    record: StoredModel
    metadata: ModelMetadata | None
    capabilities: tuple[str, ...]
