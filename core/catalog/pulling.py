"""Decides who reads a reference: the source or the registry of its scheme, or else the registry that is set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corral.core.catalog.registry_pulls import RegistryPuller
from corral.core.catalog.source_pulls import SourcePuller
from corral.core.errors import InvalidRequest
from corral.core.models.model import StoredModel
from corral.core.models.names import ModelName
from corral.core.models.references import parse_reference
from corral.core.ports.registries import Registry
from corral.core.ports.sources import ModelSource, OnProgress
from corral.core.wording.left_out import remarks

__all__ = ("ModelPuller",)


class ModelPuller:
    """`default_registry` is the scheme of the registry that reads references without one; None: nobody does."""

    def __init__(
        self,
        *,
        from_source: SourcePuller,
        from_registry: RegistryPuller,
        sources: Sequence[ModelSource],
        registries: Sequence[Registry],
        default_registry: str | None,
        left_out: Mapping[str, str],
    ) -> None:
        self._from_source = from_source
        self._from_registry = from_registry
        self._sources = {source.scheme: source for source in sources}
        self._registries = {registry.scheme: registry for registry in registries}
        self._default_registry = default_registry
        self._left_out = left_out

    async def pull(self, reference: str, name: ModelName | None, on_progress: OnProgress) -> StoredModel:
        """Raises `InvalidRequest` for a reference that nobody reads, and what the source or the registry raises."""
        scheme, separator, _ = reference.partition("://")
        if separator and scheme in self._sources:
            return await self._from_source.pull(self._sources[scheme], reference, name, on_progress)
        registry = self._registries.get(scheme if separator else self._default_registry or "")
        if registry is None or not reference:
            raise self._unknown(reference, scheme)
        return await self._from_registry.pull(registry, parse_reference(reference), name, on_progress)

    def _unknown(self, reference: str, scheme: str) -> InvalidRequest:
        known = ", ".join(f"{scheme}://" for scheme in sorted({*self._sources, *self._registries}))
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
