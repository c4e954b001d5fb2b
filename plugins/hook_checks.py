"""What the specs of single kinds of hooks, and the parts that they lead to, must fulfil."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import msgspec.inspect

from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.containment import short_line
from corral.core.errors import PluginError
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.registries import Registry
from corral.core.ports.sources import ModelSource
from corral.core.ports.upkeep import StoreUpkeep
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec
from corral.plugins.hook_kinds import implements, require_port
from corral.plugins.specs import AddressedSpec, Stores

__all__ = ("check_address", "check_converter", "check_engine", "check_registry", "check_source", "check_stores")

ENGINE_API: Final = (1, 0)
"""The version of the engine port. An `EngineSpec` written for another major version is refused."""


def check_engine(spec: EngineSpec) -> None:
    InstalledPackages().check(spec)
    if spec.api_version[0] != ENGINE_API[0]:
        stated = ".".join(map(str, spec.api_version))
        raise PluginError(
            f"engine {spec.name!r} is written for engine API {stated}, but this Corral has {ENGINE_API[0]}.x"
        )


def check_converter(spec: ConverterSpec) -> None:
    InstalledPackages().check(spec)


def check_address(spec: AddressedSpec) -> None:
    if spec.address is None:
        return
    fields = msgspec.structs.fields(spec.settings) if spec.settings is not None else ()
    if not any(field.name == spec.address and _is_text(field.type) for field in fields):
        raise PluginError(f"{spec.name!r} has no setting {spec.address!r} of type str for its address")


def _is_text(annotation: Any) -> bool:
    found = msgspec.inspect.type_info(annotation)
    if isinstance(found, msgspec.inspect.Metadata):
        found = found.type
    return isinstance(found, msgspec.inspect.StrType)


def check_stores(name: str, part: object) -> None:
    if not isinstance(part, Stores):
        raise PluginError(f"the store {name!r} returned {type(part).__name__} instead of Stores")
    require_port(f"the store {name!r}: blobs", part.blobs, BlobStore)
    require_port(f"the store {name!r}: manifests", part.manifests, ManifestStore)
    require_port(f"the store {name!r}: local", part.local, LocalBlobs)
    if part.upkeep is not None:
        require_port(f"the store {name!r}: upkeep", part.upkeep, StoreUpkeep)


def check_source(name: str, part: Any) -> None:
    implements(ModelSource)(name, part)
    if part.scheme != name:
        raise PluginError(f"its scheme is {short_line(repr(part.scheme), 60)}, but it is registered as {name!r}")


def check_registry(name: str, part: Any) -> None:
    implements(Registry)(name, part)
    schemes = part.schemes
    if not isinstance(schemes, tuple) or schemes[:1] != (name,) or not all(isinstance(one, str) for one in schemes):
        raise PluginError(
            f"its schemes are {short_line(repr(schemes), 60)}, but it is registered as {name!r}",
            f"schemes is a tuple of strings that begins with {name!r}",
        )
