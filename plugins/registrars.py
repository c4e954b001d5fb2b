"""The typed objects that a plugin's hooks are handed: calling one registers a spec."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from corral.core.containment import short_line
from corral.core.errors import PluginError
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec
from corral.core.specs.installation import HasRequirements, requirements
from corral.plugins.spec_checks import checked_spec
from corral.plugins.specs import (
    ChatLanguageSpec,
    CommandSpec,
    ManifestFormatSpec,
    MetadataReaderSpec,
    RouteSpec,
    RunnerSpec,
    SourceSpec,
    StoreSpec,
)

__all__ = (
    "ChatLanguageRegistrar",
    "CommandRegistrar",
    "ConverterRegistrar",
    "EngineRegistrar",
    "ManifestFormatRegistrar",
    "MetadataReaderRegistrar",
    "Registrar",
    "RouteRegistrar",
    "RunnerRegistrar",
    "SourceRegistrar",
    "StoreRegistrar",
)

ENGINE_API = (1, 0)
"""The engine port's version; an `EngineSpec` of another major is refused."""

Spec = TypeVar(
    "Spec",
    EngineSpec,
    ConverterSpec,
    RunnerSpec,
    StoreSpec,
    SourceSpec,
    ManifestFormatSpec,
    MetadataReaderSpec,
    ChatLanguageSpec,
    RouteSpec,
    CommandSpec,
)


class Registrar(Generic[Spec]):
    """Collects one plugin's specs of one kind, in the order of registration.

    Calling it raises `PluginError` for a value that is no spec of this kind and for a name that is taken, by
    this plugin or (`taken`: name to owner) by an earlier one. A plugin whose hook lets that through is skipped whole.
    """

    kind: ClassVar[str]
    spec_type: ClassVar[type]

    def __init__(self, taken: dict[str, str] | None = None) -> None:
        self._taken = taken or {}
        self._specs: dict[str, Spec] = {}

    def __call__(self, spec: Spec) -> None:
        if not isinstance(spec, self.spec_type):
            shown = f"{type(spec).__name__}: {short_line(repr(spec), 100)}"
            raise PluginError(f"{self.kind} must be {self.spec_type.__name__}, not {shown}")
        spec = checked_spec(spec, self.spec_type, self.kind)
        if spec.name in self._specs:
            raise PluginError(f"{self.kind} {spec.name!r} is registered twice")
        if spec.name in self._taken:
            raise PluginError(
                f"{self.kind} {spec.name!r} is already registered by the plugin {self._taken[spec.name]!r}",
                f"block one of the two with plugins.block, or rename the {self.kind}",
            )
        self.check(spec)
        self._specs[spec.name] = spec

    def check(self, spec: Spec) -> None:
        """What more a kind asks of its specs. Raises `PluginError`."""

    @property
    def specs(self) -> tuple[Spec, ...]:
        return tuple(self._specs.values())


class EngineRegistrar(Registrar[EngineSpec]):
    kind, spec_type = "engine", EngineSpec

    def check(self, spec: EngineSpec) -> None:
        _check_requirement(spec)
        if spec.api_version[0] != ENGINE_API[0]:
            stated = ".".join(map(str, spec.api_version))
            raise PluginError(
                f"engine {spec.name!r} is written for engine API {stated}, but this Corral has {ENGINE_API[0]}.x"
            )


class ConverterRegistrar(Registrar[ConverterSpec]):
    kind, spec_type = "converter", ConverterSpec

    def check(self, spec: ConverterSpec) -> None:
        _check_requirement(spec)


def _check_requirement(spec: HasRequirements) -> None:
    requirements(spec)


class RunnerRegistrar(Registrar[RunnerSpec]):
    kind, spec_type = "runner", RunnerSpec


class StoreRegistrar(Registrar[StoreSpec]):
    kind, spec_type = "store", StoreSpec


class SourceRegistrar(Registrar[SourceSpec]):
    kind, spec_type = "source", SourceSpec


class ManifestFormatRegistrar(Registrar[ManifestFormatSpec]):
    kind, spec_type = "manifest format", ManifestFormatSpec


class MetadataReaderRegistrar(Registrar[MetadataReaderSpec]):
    kind, spec_type = "metadata reader", MetadataReaderSpec


class ChatLanguageRegistrar(Registrar[ChatLanguageSpec]):
    kind, spec_type = "chat template", ChatLanguageSpec


class RouteRegistrar(Registrar[RouteSpec]):
    kind, spec_type = "route", RouteSpec


class CommandRegistrar(Registrar[CommandSpec]):
    kind, spec_type = "command", CommandSpec
