"""Creates the objects that specs name, and checks them; those of plugins that fail are recorded and left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec

from corral.core.containment import TookTooLong, on_own_thread, short_line
from corral.core.errors import PluginError, SettingsError
from corral.core.scheduling.engine_choice import ANY_MODEL
from corral.core.scheduling.load_options import typed_load_options
from corral.core.specs.engines import EngineSpec
from corral.core.specs.imports import import_name
from corral.core.specs.spec_calls import check_match
from corral.core.wording.left_out import remarks
from corral.plugins.hook_kinds import Factories, Factory, HookKind, Part, Target, Targets
from corral.plugins.hooks import HOOKS
from corral.plugins.manager import BUILTIN, PluginManager
from corral.plugins.settings.schema import Settings
from corral.plugins.specs import build, resolve

__all__ = ("Parts", "make_part", "make_parts", "make_selected", "require_known", "resolve_targets", "try_out")

T = TypeVar("T")


class Parts:
    """The objects created from specs when Corral is assembled."""

    def __init__(self) -> None:
        self._made: dict[HookKind[Any], dict[str, Any]] = {}

    def add(self, kind: Factories[Factory, Part], made: dict[str, Part]) -> None:
        self._made[kind] = made

    def of(self, kind: Factories[Factory, Part]) -> dict[str, Part]:
        """The parts of one kind by name, in the order of registration."""
        return self._made[kind]


def make_parts(manager: PluginManager, settings: Settings) -> Parts:
    """Calls the factories of all kinds whose parts are not selected by a setting.

    If a plugin's factory fails, this is recorded in `manager`, and the others are still called. Blocks for as long as
    a plugin may take. Raises what Corral's own factories raise, and `SettingsError`.
    """
    parts = Parts()
    for kind in HOOKS:
        if isinstance(kind, Factories) and not kind.selected:
            parts.add(kind, _make_all(manager, kind, settings.parts.get(kind.plural, {})))
    return parts


def make_part(
    manager: PluginManager, kind: Factories[Factory, Part], spec: Factory, own: msgspec.Struct, *more: object
) -> Part:
    """Calls the factory of one spec with its settings, and `more`. Raises what it raises, and `PluginError`."""
    return _make(manager, kind, spec, {spec.name: own}, *more)


def make_selected(
    manager: PluginManager,
    kind: Factories[Factory, Part],
    name: str,
    settings: Mapping[str, msgspec.Struct],
    path: str,
    *more: str,
) -> Part:
    """Makes the part of a kind that the setting at `path` selects, guarded if it is a plugin's.

    `settings` are those of all specs of the kind, by name; `more` is what else the setting may be, for errors. Blocks
    for as long as a plugin may take. Raises `SettingsError` for an unknown name, `PluginError`, and what a factory
    raises.
    """
    specs = {spec.name: spec for spec in manager.specs(kind)}
    require_known(name, (*more, *specs), path, manager)
    return _guarded(manager, kind, name, make_part(manager, kind, specs[name], settings[name]))


def resolve_targets(manager: PluginManager, kind: Targets[Target, Part]) -> list[Part]:
    """Imports what the specs of this kind name. A missing or mistyped target of a plugin is recorded and left out."""
    specs = manager.specs(kind)
    if not specs:
        return []
    target_type = import_name(kind.target_type)
    found = []
    for spec in specs:
        try:
            target = _contained(manager, partial(resolve, spec.target))
            if not isinstance(target, target_type):
                shown = f"{type(target).__name__} {short_line(repr(target), 60)}"
                package = kind.target_type.replace(":", ".")
                raise PluginError(f"{spec.target} is {shown} instead of a {package}")
        except Exception as fault:
            if not manager.failed(kind, spec.name, fault):
                raise
        else:
            found.append(target)
    return found


def try_out(manager: PluginManager, settings: Settings) -> None:
    """Creates everything that plugins register once, so that `manager` knows what cannot be created."""
    make_parts(manager, settings)
    for kind in HOOKS:
        if isinstance(kind, Targets):
            with suppress(ImportError):  # the server is not installed
                resolve_targets(manager, kind)
        for spec in manager.specs(kind):
            if hasattr(spec, "match") and manager.owner(kind, spec.name) != BUILTIN:
                _try_match(manager, kind, spec)


def _try_match(manager: PluginManager, kind: HookKind[Any], spec: Any) -> None:
    try:
        options = (typed_load_options(spec),) if isinstance(spec, EngineSpec) else ()
        check_match(spec.match(ANY_MODEL, None, *options))
    except Exception as fault:
        manager.failed(kind, spec.name, PluginError(f"its match failed: {short_line(fault) or type(fault).__name__}"))


def _make_all(
    manager: PluginManager, kind: Factories[Factory, Part], settings: Mapping[str, msgspec.Struct]
) -> dict[str, Part]:
    made: dict[str, Part] = {}
    for spec in manager.specs(kind):
        try:
            part = _make(manager, kind, spec, settings)
        except SettingsError:
            raise
        except Exception as fault:
            if not manager.failed(kind, spec.name, fault):
                raise
        else:
            made[spec.name] = _guarded(manager, kind, spec.name, part)
    return made


def _guarded(manager: PluginManager, kind: Factories[Factory, Part], name: str, part: Part) -> Part:
    owner = manager.owner(kind, name)
    return part if owner == BUILTIN else kind.guard(part, f"the plugin {owner}, {name}")


def _make(
    manager: PluginManager,
    kind: Factories[Factory, Part],
    spec: Factory,
    settings: Mapping[str, msgspec.Struct],
    *more: object,
) -> Part:
    def make() -> Part:
        part: Part = build(spec, settings.get(spec.name), *more)
        kind.check_part(spec.name, part)
        return part

    return make() if manager.owner(kind, spec.name) == BUILTIN else _contained(manager, make)


def _contained(manager: PluginManager, work: Callable[[], T]) -> T:
    try:
        return on_own_thread(work, limit_s=manager.limit_s)
    except TookTooLong as late:
        raise PluginError(str(late)) from late


def require_known(name: str, known: Collection[str], path: str, manager: PluginManager) -> None:
    """Raises `SettingsError` if the setting at `path` has a name that is not among the `known` ones."""
    if name not in known:
        choices = f"choose one of {', '.join(known)}" if known else "none is installed"
        raise SettingsError(f"{path}: unknown name {name!r}", "; ".join((*remarks(manager.left_out, name), choices)))
