"""The bases of what plugins register: small specs that hold import paths instead of the objects those lead to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from corral.core.containment import short_line
from corral.core.errors import PluginError
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.metadata import MetadataCache
from corral.core.ports.upkeep import StoreUpkeep
from corral.core.specs.imports import import_name

__all__ = ("AddressedSpec", "FactorySpec", "LazySpec", "Stores", "build", "resolve")


class LazySpec(msgspec.Struct, frozen=True, kw_only=True):
    """A name, and the import path of what it names: `target` is ``package.module:attribute``."""

    name: str
    target: str


class FactorySpec(LazySpec, frozen=True, kw_only=True):
    """A spec whose `target` is a factory: called once, with its settings if it has any.

    `settings` is a Struct, all of whose fields have defaults. It decodes the spec's section of the settings, and the
    factory is called with the result. Without it, the factory is called without arguments.
    """

    settings: type[msgspec.Struct] | None = None


class AddressedSpec(FactorySpec, frozen=True, kw_only=True):
    """A spec that a setting can select by an address, ``NAME:PLACE``.

    `address` is the field of its settings, of type str, that gets the place; None if it takes none. `registry` is the
    name of a registry's spec, whose object the factory gets as a second argument.
    """

    address: str | None = None
    registry: str | None = None


class Stores(msgspec.Struct, frozen=True, kw_only=True):
    """What the factory of a store returns: blobs, manifests, and the blobs as local files that engines can map.

    `cache`, if any, remembers the metadata of weights files, so that they need not be read again. `upkeep`, if any,
    lets `corral gc` find what is neither blob nor manifest, and `corral verify` move broken blobs aside. New models are
    written in the first of `preferred_formats`, names of manifest formats, that can hold them. `cache_folder` is where
    engines may keep what they have computed for models of this store: a local folder; None if nothing is kept.
    """

    blobs: BlobStore
    manifests: ManifestStore
    local: LocalBlobs
    cache: MetadataCache | None = None
    upkeep: StoreUpkeep | None = None
    preferred_formats: tuple[str, ...] = ()
    cache_folder: Path | None = None


def resolve(target: str) -> Any:
    """Imports what ``package.module:attribute`` names. Raises `PluginError` that says what is missing."""
    try:
        return import_name(target)
    except PluginError:
        raise
    except (Exception, SystemExit) as fault:  # a plugin's module runs here: it may raise anything
        raise PluginError(f"cannot import {target!r}: {type(fault).__name__}: {short_line(fault)}") from fault


def build(spec: FactorySpec, settings: msgspec.Struct | None = None, *more: object) -> Any:
    """Calls the spec's factory with `settings`, or with the defaults of the Struct that the spec names, and `more`."""
    factory: Callable[..., Any] = resolve(spec.target)
    if spec.settings is None:
        return factory(*more)
    return factory(settings if settings is not None else spec.settings(), *more)
