"""The object that a plugin's hook is called with: calling it registers a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic

from corral.core.containment import short_line
from corral.core.errors import PluginError
from corral.plugins.hook_kinds import HookKind, Spec
from corral.plugins.spec_checks import checked_spec

__all__ = ("Registrar",)


class Registrar(Generic[Spec]):
    """Collects the specs of one kind that one plugin registers, in the order of registration.

    Calling it raises `PluginError` for a value that is not a spec of this kind, and for a name that is taken by
    this plugin or (`taken`: name to owner) by an earlier one. A plugin whose hook raises is skipped as a whole.
    """

    def __init__(self, kind: HookKind[Spec], taken: Mapping[str, str] = {}) -> None:
        self.kind = kind
        self._taken = taken
        self._specs: dict[str, Spec] = {}

    def __call__(self, spec: Spec) -> None:
        noun, spec_type = self.kind.noun, self.kind.spec_type
        if not isinstance(spec, spec_type):
            shown = f"{type(spec).__name__}: {short_line(repr(spec), 100)}"
            raise PluginError(f"{noun} must be {spec_type.__name__}, not {shown}")
        spec = checked_spec(spec, spec_type, noun)
        if spec.name in self._specs:
            raise PluginError(f"{noun} {spec.name!r} is registered twice")
        if spec.name in self._taken:
            raise PluginError(
                f"{noun} {spec.name!r} is already registered by the plugin {self._taken[spec.name]!r}",
                f"block one of the two with plugins.block, or rename the {noun}",
            )
        self.kind.check(spec)
        self._specs[spec.name] = spec

    @property
    def specs(self) -> tuple[Spec, ...]:
        """What was registered so far."""
        return tuple(self._specs.values())
