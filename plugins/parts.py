"""Makes what specs name, and sees that it is what it should be; a plugin's that fails is recorded and left out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from corral.core.containment import TookTooLong, on_own_thread, short_line
from corral.core.errors import PluginError, SettingsError
from corral.core.ports.blobs import BlobStore, LocalBlobs
from corral.core.ports.chat import ChatLanguage
from corral.core.ports.manifests import ManifestFormat, ManifestStore
from corral.core.ports.metadata import MetadataReader
from corral.core.ports.runners import Runner
from corral.core.ports.sources import ModelSource
from corral.core.scheduling.engine_choice import ANY_MODEL, check_match
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec
from corral.plugins.guards import guarded
from corral.plugins.manager import BUILTIN, PluginManager
from corral.plugins.settings.schema import Settings
from corral.plugins.specs import LazySpec, Stores, build, resolve

__all__ = ("make_all_parts", "make_store", "plugin_routers", "try_out")

_PORTS: Mapping[str, Any] = {
    "corral_register_runners": Runner,
    "corral_register_sources": ModelSource,
    "corral_register_manifest_formats": ManifestFormat,
    "corral_register_metadata_readers": MetadataReader,
    "corral_register_chat_languages": ChatLanguage,
}


def make_parts(
    manager: PluginManager, hook: str, specs: Sequence[LazySpec], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the specs name, by name. One of a plugin's that fails is recorded and left out: the others do their work.

    Blocks for as long as a plugin may take.
    """
    made: dict[str, Any] = {}
    for spec in specs:
        try:
            part = _make(manager, hook, spec, (settings or {}).get(spec.name))
        except SettingsError:
            raise
        except Exception as fault:
            if not manager.failed(hook, spec.name, fault):
                raise
        else:
            owner = manager.owner(hook, spec.name)
            where = f"the plugin {owner}, {spec.name}"
            made[spec.name] = part if owner == BUILTIN else guarded(hook, part, where)
    return made


def make_all_parts(manager: PluginManager, settings: Settings) -> dict[str, dict[str, Any]]:
    """What is made of specs when Corral is assembled, by hook and name; as `make_parts`."""
    specs: dict[str, tuple[Sequence[LazySpec], Mapping[str, Any]]] = {
        "corral_register_runners": (manager.runners(), settings.runners),
        "corral_register_sources": (manager.sources(), settings.sources),
        "corral_register_manifest_formats": (manager.manifest_formats(), {}),
        "corral_register_metadata_readers": (manager.metadata_readers(), {}),
        "corral_register_chat_languages": (manager.chat_languages(), {}),
    }
    return {hook: make_parts(manager, hook, of_hook, section) for hook, (of_hook, section) in specs.items()}


def make_store(manager: PluginManager, spec: LazySpec, settings: Any) -> Stores:
    """The store that is set, without which nothing works. Raises `PluginError`, and what its factory raises."""
    opened: Stores = _make(manager, "corral_register_stores", spec, settings)
    return opened


def plugin_routers(manager: PluginManager) -> list[Any]:
    """The plugins' routers, imported. What is none is recorded and left out."""
    specs = manager.routes()
    if not specs:
        return []
    from litestar import Router

    return _resolved(manager, "corral_register_routes", specs, Router)


def try_out(manager: PluginManager, settings: Settings) -> None:
    """Makes everything that plugins register once, so that `manager` knows what cannot be made."""
    make_all_parts(manager, settings)
    with suppress(ImportError):  # an installation without the server
        plugin_routers(manager)
    from click import Command

    _resolved(manager, "corral_register_commands", manager.commands(), Command)
    matches: tuple[tuple[str, Sequence[EngineSpec | ConverterSpec]], ...] = (
        ("corral_register_engines", manager.engines()),
        ("corral_register_converters", manager.converters()),
    )
    for hook, specs in matches:
        for spec in specs:
            if manager.owner(hook, spec.name) != BUILTIN:
                _try_match(manager, hook, spec)


def _try_match(manager: PluginManager, hook: str, spec: EngineSpec | ConverterSpec) -> None:
    try:
        check_match(spec.match(ANY_MODEL, None))
    except Exception as fault:
        manager.failed(hook, spec.name, PluginError(f"its match failed: {short_line(fault) or type(fault).__name__}"))


def _resolved(manager: PluginManager, hook: str, specs: Sequence[LazySpec], wanted: type) -> list[Any]:
    """What the specs' targets name, where that is of the type that is wanted."""
    found = []
    for spec in specs:
        try:
            target = _contained(manager, partial(resolve, spec.target))
            if not isinstance(target, wanted):
                shown = f"{type(target).__name__} {short_line(repr(target), 60)}"
                raise PluginError(
                    f"{spec.target} is {shown} instead of a {wanted.__module__.partition('.')[0]}.{wanted.__name__}"
                )
        except Exception as fault:
            if not manager.failed(hook, spec.name, fault):
                raise
        else:
            found.append(target)
    return found


def _make(manager: PluginManager, hook: str, spec: LazySpec, settings: Any) -> Any:
    def make() -> Any:
        part = build(spec, settings)
        _check(hook, spec.name, part)
        return part

    return make() if manager.owner(hook, spec.name) == BUILTIN else _contained(manager, make)


def _contained(manager: PluginManager, work: Any) -> Any:
    try:
        return on_own_thread(work, limit_s=manager.limit_s)
    except TookTooLong as late:
        raise PluginError(str(late)) from late


def _check(hook: str, name: str, part: Any) -> None:
    port = _PORTS.get(hook)
    if hook == "corral_register_stores":
        if not isinstance(part, Stores):
            raise PluginError(f"the store {name!r} returned {type(part).__name__} instead of Stores")
        for field, wanted in (("blobs", BlobStore), ("manifests", ManifestStore), ("local", LocalBlobs)):
            _require_port(f"the store {name!r}: {field}", getattr(part, field), wanted)
    elif port is not None:
        _require_port("the result of its factory", part, port)
    elif not callable(part):
        raise PluginError(f"its factory returned {short_line(repr(part), 60)}, which is not callable")
    if port is ModelSource and part.scheme != name:
        raise PluginError(f"its scheme is {short_line(repr(part.scheme), 60)}, but it is registered as {name!r}")


def _require_port(what: str, part: Any, port: type[Protocol]) -> None:  # type: ignore[valid-type]
    """Raises `PluginError` for the first thing that a part does not have of what its port promises."""
    for name, promised in inspect.getmembers(port, lambda one: isinstance(one, property) or inspect.isfunction(one)):
        if name.startswith("_"):
            continue
        had = getattr(part, name, None)
        fine = isinstance(had, str) if isinstance(promised, property) else callable(had)
        if not fine:
            shown = short_line(repr(part), 60)
            raise PluginError(
                f"{what} is {type(part).__name__} {shown}, which does not implement {name} as its port requires"
            )
