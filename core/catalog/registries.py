"""Finds the registry that reads a reference: the one for its scheme, or else the configured one."""

from __future__ import annotations

from collections.abc import Sequence

from corral.core.models.references import Reference, parse_reference
from corral.core.ports.registries import Registry

__all__ = ("Registries",)


class Registries:
    """`default` is the scheme that references without one are read with; None means that they are not read."""

    def __init__(self, registries: Sequence[Registry], default: str | None) -> None:
        self._registries = {scheme: registry for registry in reversed(registries) for scheme in registry.schemes}
        self._default = default

    @property
    def schemes(self) -> tuple[str, ...]:
        return tuple(self._registries)

    def find(self, text: str, *, insecure: bool = False) -> tuple[Registry, Reference] | None:
        """The reference has a scheme even if the text has none. `insecure`: its registry is reached without TLS.

        None if no registry reads such references. Raises `InvalidRequest` for a malformed one.
        """
        stated, separator, _ = text.partition("://")
        scheme = stated if separator else self._default or ""
        registry = self._registries.get(scheme)
        if registry is None or not text:
            return None
        return registry, parse_reference(text, scheme=scheme, insecure=insecure)
