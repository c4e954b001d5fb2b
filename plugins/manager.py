"""Finds plugins, checks them one by one, and keeps what the sound ones registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Final

import msgspec
import pluggy

from corral.core.converters import ConverterSpec
from corral.core.engines import EngineSpec
from corral.core.errors import CorralError
from corral.core.runtime import PluginStatus
from corral.plugins import hookspecs
from corral.plugins.registrars import (
    ChatTemplateRegistrar,
    CommandRegistrar,
    ConverterRegistrar,
    EngineRegistrar,
    ManifestFormatRegistrar,
    MetadataReaderRegistrar,
    Registrar,
    RouteRegistrar,
    RunnerRegistrar,
    SourceRegistrar,
    StoreRegistrar,
)
from corral.plugins.specs import (
    ChatTemplateSpec,
    CommandSpec,
    ManifestFormatSpec,
    MetadataReaderSpec,
    RouteSpec,
    RunnerSpec,
    SourceSpec,
    StoreSpec,
)

__all__ = ("BUILTIN", "PLUGIN_API", "PluginManager")

PLUGIN_API: Final = (1, 0)
"""The version of the hooks. A plugin states the one it is written for as ``CORRAL_PLUGIN_API``."""

BUILTIN: Final = "builtin"
"""The entry point of Corral's own plugin. It is loaded first, and stays outside the allow-list."""

_HOOKS: Final[dict[str, type[Registrar[Any]]]] = {
    "corral_register_engines": EngineRegistrar,
    "corral_register_converters": ConverterRegistrar,
    "corral_register_runners": RunnerRegistrar,
    "corral_register_stores": StoreRegistrar,
    "corral_register_sources": SourceRegistrar,
    "corral_register_manifest_formats": ManifestFormatRegistrar,
    "corral_register_metadata_readers": MetadataReaderRegistrar,
    "corral_register_chat_templates": ChatTemplateRegistrar,
    "corral_register_routes": RouteRegistrar,
    "corral_register_commands": CommandRegistrar,
}


class _Incompatible(Exception):
    """The plugin is written for another version of the hooks."""


class PluginManager:
    """What is installed, and what it registered.

    Every plugin is taken whole or not at all: one that fails to import, raises, misspells a hook, hands over a wrong
    type or a name that is taken is recorded in `statuses` with its reason, and nothing of it remains.
    """

    def __init__(self, *, allow: Sequence[str] | None = None, block: Sequence[str] = ()) -> None:
        self._allow = None if allow is None else frozenset(allow)
        self._block = frozenset(block)
        self._specs: dict[str, list[Any]] = {hook: [] for hook in _HOOKS}
        self._owners: dict[str, dict[str, str]] = {hook: {} for hook in _HOOKS}
        self._statuses: list[PluginStatus] = []

    @property
    def statuses(self) -> tuple[PluginStatus, ...]:
        """Every plugin found, in the order it was looked at."""
        return tuple(self._statuses)

    @property
    def complete(self) -> bool:
        """True where every plugin found was loaded."""
        return all(status.state == "loaded" for status in self._statuses)

    def load_entry_points(self, found: Iterable[EntryPoint] | None = None) -> None:
        """Loads the installed plugins, the built-in one first, then by name. Never raises for a plugin's fault."""
        points = entry_points(group=hookspecs.PROJECT) if found is None else found
        for point in sorted(points, key=lambda point: (point.name != BUILTIN, point.name)):
            distribution = point.dist
            self._take(
                point.name,
                point.load,
                distribution=distribution.name if distribution else None,
                version=distribution.version if distribution else None,
            )

    def register(self, plugin: ModuleType | object, name: str) -> None:
        """Takes a plugin that is at hand already; the rules are the same as for an installed one."""
        self._take(name, lambda: plugin)

    def failed(self, hook: str, name: str, fault: Exception) -> bool:
        """Record that what a plugin registered under `name` could not be made; False where that is Corral's own."""
        owner = self._owners[hook].get(name, BUILTIN)
        if owner == BUILTIN:
            return False
        reason = f"{_HOOKS[hook].kind} {name}: {_describe(fault)}"
        self._statuses = [
            msgspec.structs.replace(status, state="broken", reason=reason) if status.name == owner else status
            for status in self._statuses
        ]
        return True

    def _take(
        self, name: str, load: Callable[[], object], *, distribution: str | None = None, version: str | None = None
    ) -> None:
        state, reason = "loaded", ""
        provides: tuple[str, ...] = ()
        refused = self._refusal(name)
        if refused is not None:
            state, reason = "blocked", refused
        else:
            try:
                provides = self._register(name, load())
            except _Incompatible as mismatch:
                state, reason = "incompatible", str(mismatch)
            # A plugin is foreign code: whatever it raises, SystemExit included, must not stop the others.
            except (Exception, SystemExit) as fault:
                state, reason = "broken", _describe(fault)
        status = PluginStatus(
            name=name, state=state, reason=reason, distribution=distribution, version=version, provides=provides
        )
        self._statuses.append(status)

    def _refusal(self, name: str) -> str | None:
        if name in self._block:
            return "listed in plugins.block"
        if self._allow is not None and name not in self._allow and name != BUILTIN:
            return "not listed in plugins.allow"
        return None

    def _register(self, name: str, plugin: object) -> tuple[str, ...]:
        if any(status.name == name for status in self._statuses):
            raise ValueError(f"another plugin is named {name!r} as well")
        _check_api(plugin)
        _check_hooks(plugin)
        # One pluggy manager per plugin: a fault in one cannot leave anything behind in the others' hooks.
        plugins = pluggy.PluginManager(hookspecs.PROJECT)
        plugins.add_hookspecs(hookspecs)
        plugins.register(plugin, name)
        plugins.check_pending()
        registered: dict[str, Registrar[Any]] = {}
        for hook, registrar_type in _HOOKS.items():
            registered[hook] = registrar_type(self._owners[hook])
            getattr(plugins.hook, hook)(register=registered[hook])
        provides: list[str] = []
        for hook, registrar in registered.items():
            for spec in registrar.specs:
                self._specs[hook].append(spec)
                self._owners[hook][spec.name] = name
                provides.append(f"{registrar.kind}: {spec.name}")
        return tuple(provides)

    def engines(self) -> tuple[EngineSpec, ...]:
        return tuple(self._specs["corral_register_engines"])

    def converters(self) -> tuple[ConverterSpec, ...]:
        return tuple(self._specs["corral_register_converters"])

    def runners(self) -> tuple[RunnerSpec, ...]:
        return tuple(self._specs["corral_register_runners"])

    def stores(self) -> tuple[StoreSpec, ...]:
        return tuple(self._specs["corral_register_stores"])

    def sources(self) -> tuple[SourceSpec, ...]:
        return tuple(self._specs["corral_register_sources"])

    def manifest_formats(self) -> tuple[ManifestFormatSpec, ...]:
        return tuple(self._specs["corral_register_manifest_formats"])

    def metadata_readers(self) -> tuple[MetadataReaderSpec, ...]:
        return tuple(self._specs["corral_register_metadata_readers"])

    def chat_templates(self) -> tuple[ChatTemplateSpec, ...]:
        return tuple(self._specs["corral_register_chat_templates"])

    def routes(self) -> tuple[RouteSpec, ...]:
        return tuple(self._specs["corral_register_routes"])

    def commands(self) -> tuple[CommandSpec, ...]:
        return tuple(self._specs["corral_register_commands"])


def _check_api(plugin: object) -> None:
    stated = getattr(plugin, "CORRAL_PLUGIN_API", None)
    wanted = f"this Corral takes {PLUGIN_API[0]}.x"
    if stated is None:
        raise _Incompatible(f"states no CORRAL_PLUGIN_API; {wanted}: CORRAL_PLUGIN_API = {PLUGIN_API}")
    if not (isinstance(stated, tuple) and len(stated) == 2 and all(isinstance(part, int) for part in stated)):
        raise TypeError(f"CORRAL_PLUGIN_API must be a pair of numbers such as {PLUGIN_API}, not {stated!r}")
    if stated[0] != PLUGIN_API[0]:
        raise _Incompatible(f"is written for plugin API {stated[0]}.{stated[1]}; {wanted}")


def _check_hooks(plugin: object) -> None:
    """pluggy passes over an unmarked function in silence; an author would look for that mistake for hours."""
    for name in dir(plugin):
        if not name.startswith("corral_"):
            continue
        value = getattr(plugin, name)
        if isinstance(value, ModuleType) or not callable(value):
            continue
        if name not in _HOOKS:
            raise ValueError(f"{name} is no hook of Corral; the hooks are {', '.join(_HOOKS)}")
        if getattr(value, f"{hookspecs.PROJECT}_impl", None) is None:
            raise ValueError(f"{name} is not marked with @corral.plugins.hookimpl")


def _describe(fault: BaseException) -> str:
    text = str(fault).strip() or type(fault).__name__
    if isinstance(fault, CorralError):
        return f"{text} ({fault.remedy})" if fault.remedy else text
    return f"{type(fault).__name__}: {text}" if str(fault).strip() else text
