"""Finds the registry that reads a reference: the one for its scheme, or else the configured one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from corral.core.models.references import Reference, parse_reference
from corral.core.ports.registries import Registry

__all__ = ("Registries",)


class Registries:
    """`default` is the scheme of the registry that reads references without one; None means none does."""

    def __init__(self, registries: Sequence[Registry], default: str | None) -> None:
        self._registries = {registry.scheme: registry for registry in registries}
        self._default = default

    @property
    def schemes(self) -> tuple[str, ...]:
        return tuple(self._registries)

    def find(self, text: str, *, insecure: bool = False) -> tuple[Registry, Reference] | None:
        """None if no registry reads such references. Raises `InvalidRequest` for a malformed one."""
        scheme, separator, _ = text.partition("://")
        registry = self._registries.get(scheme if separator else self._default or "")
        if registry is None or not text:
            return None
        return registry, msgspec.structs.replace(parse_reference(text), insecure=insecure)
