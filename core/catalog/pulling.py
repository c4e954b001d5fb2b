"""Pulls a reference from the source or registry of its scheme, or else from the configured registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.core.catalog.registries import Registries
from corral.core.catalog.registry_pulls import RegistryPuller
from corral.core.catalog.source_pulls import SourcePuller
from corral.core.errors import InvalidRequest
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.ports.sources import ModelSource, OnProgress
from corral.core.wording.left_out import remarks

__all__ = ("ModelPuller",)


class ModelPuller:
    """`left_out` has a sentence for each plugin that is not loaded."""

    def __init__(
        self,
        *,
        from_source: SourcePuller,
        from_registry: RegistryPuller,
        sources: Sequence[ModelSource],
        registries: Registries,
        left_out: Mapping[str, str],
    ) -> None:
        self._from_source = from_source
        self._from_registry = from_registry
        self._sources = {source.scheme: source for source in sources}
        self._registries = registries
        self._left_out = left_out

    async def pull(self, reference: str, name: ModelName | None, on_progress: OnProgress) -> StoredModel:
        """Raises `InvalidRequest` if nothing reads the reference, and what the source or the registry raises."""
        scheme, separator, _ = reference.partition("://")
        if separator and scheme in self._sources:
            return await self._from_source.pull(self._sources[scheme], reference, name, on_progress)
        found = self._registries.find(reference)
        if found is None:
            raise self._unknown(reference, scheme)
        return await self._from_registry.pull(*found, name, on_progress)

    def _unknown(self, reference: str, scheme: str) -> InvalidRequest:
        known = ", ".join(f"{scheme}://" for scheme in sorted({*self._sources, *self._registries.schemes}))
        return InvalidRequest(
            f"no source for {reference[:100]!r}",
            "; ".join(
                (
                    f"references start with one of: {known or '(none)'}",
                    "to import a local file, use corral import",
                    *remarks(self._left_out, scheme),
                )
            ),
        )
