"""Finds plugins, checks them one by one, and keeps what the valid ones register."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import EntryPoint, distributions, entry_points
from types import ModuleType
from typing import Any, Final

import msgspec
import pluggy

from corral.core.containment import TookTooLong, on_own_thread, short_line
from corral.core.errors import CorralError
from corral.core.runtime import PluginStatus
from corral.plugins.guarded_parts import bounded
from corral.plugins.hook_kinds import HookKind, Spec
from corral.plugins.hooks import COMMANDS, HOOKS
from corral.plugins.interpreter_state import InterpreterState
from corral.plugins.pluggy_markers import PROJECT, HookSpecs
from corral.plugins.registrar import Registrar

__all__ = ("BUILTIN", "PLUGIN_API", "PluginManager")

PLUGIN_API: Final = (1, 0)
"""The version of the hooks. A plugin states the one it is written for as ``CORRAL_PLUGIN_API``."""

BUILTIN: Final = "builtin"
"""The entry point of Corral's own plugin. It is loaded first, regardless of `plugins.allow`."""

_log = logging.getLogger("corral.plugins")

_given_up: dict[str, str] = {}
"""The reason by entry point, for plugins that never returned: this process does not try them again."""


class _Incompatible(Exception):
    """The plugin is written for another version of the hooks."""


class PluginManager:
    """The installed plugins, and what they registered.

    A plugin is loaded completely or not at all. If it cannot be imported, does not return, raises, misspells a hook, or
    registers a wrong value or a name that is taken, it is recorded in `statuses` with the reason and registers nothing.

    `limit_s` is how long a plugin's import and hooks may take, and each object created from it later; None means no
    limit. `commands` are names of the command line's own.
    """

    def __init__(
        self,
        *,
        allow: Sequence[str] | None = None,
        block: Sequence[str] = (),
        limit_s: float | None = 10.0,
        commands: Iterable[str] = (),
    ) -> None:
        self._allow = None if allow is None else frozenset(allow)
        self._block = frozenset(block)
        self.limit_s = limit_s
        self._specs: dict[HookKind[Any], list[Any]] = {kind: [] for kind in HOOKS}
        self._owners: dict[HookKind[Any], dict[str, str]] = {kind: {} for kind in HOOKS}
        self._owners[COMMANDS] |= dict.fromkeys(commands, BUILTIN)
        self._statuses: list[PluginStatus] = []

    @property
    def statuses(self) -> tuple[PluginStatus, ...]:
        """Every plugin found, in the order of loading."""
        return tuple(self._statuses)

    @property
    def complete(self) -> bool:
        """True if every plugin found was loaded."""
        return all(status.state == "loaded" for status in self._statuses)

    @property
    def left_out(self) -> dict[str, str]:
        """A sentence for each plugin that was not loaded, by name, for errors about something missing."""
        return {
            status.name: f"the plugin {status.name} is {status.state}: {status.reason}" for status in self._left_out()
        }

    def _left_out(self) -> list[PluginStatus]:
        return [status for status in self._statuses if status.state != "loaded"]

    def load_entry_points(self, found: Iterable[EntryPoint] | None = None) -> None:
        """Loads the installed plugins, the built-in one first, then by name. Never raises because of a plugin."""
        points = list(self._installed() if found is None else found)
        for point in sorted(points, key=lambda point: (point.name != BUILTIN, point.name)):
            distribution, version = _distribution(point)
            self._take(point.name, point.load, place=point.value, distribution=distribution, version=version)

    def register(self, plugin: ModuleType | object, name: str) -> None:
        """Loads a plugin object that is not installed, by the same rules as an installed one."""
        self._take(name, lambda: plugin)

    def warn(self) -> None:
        """Logs one line for each plugin that is broken or incompatible, once per process and reason."""
        for status in self._left_out():
            if status.state != "blocked":
                _warn_once(status.name, status.state, status.reason)

    def specs(self, kind: HookKind[Spec]) -> tuple[Spec, ...]:
        """What plugins registered of this kind, in the order of registration."""
        return tuple(self._specs[kind])

    def owner(self, kind: HookKind[Any], name: str) -> str:
        """The plugin that registered the spec of this kind and name."""
        return self._owners[kind].get(name, BUILTIN)

    def failed(self, kind: HookKind[Any], name: str, fault: BaseException) -> bool:
        """Records that the part that a spec stands for could not be made; False if the spec is Corral's own."""
        owner = self.owner(kind, name)
        if owner == BUILTIN:
            return False
        reason = f"{kind.noun} {name}: {_describe(fault)}"
        self._statuses = [
            msgspec.structs.replace(status, state="broken", reason=reason) if status.name == owner else status
            for status in self._statuses
        ]
        return True

    def _installed(self) -> Iterator[EntryPoint]:
        try:
            yield from entry_points(group=PROJECT)
            return
        except Exception:
            _log.debug("the entry points of a distribution cannot be read", exc_info=True)
        seen: set[str] = set()
        for distribution in distributions():  # a distribution with damaged metadata does not hide the others
            name = short_line(getattr(distribution, "_path", "?"))
            try:
                name = distribution.name
                points = distribution.entry_points.select(group=PROJECT)
            except Exception as fault:
                self._record(name, "broken", f"its metadata cannot be read: {_describe(fault)}")
                continue
            if name not in seen:
                yield from points
            seen.add(name)

    def _take(
        self,
        name: str,
        load: Callable[[], object],
        *,
        place: str | None = None,
        distribution: str | None = None,
        version: str | None = None,
    ) -> None:
        state, reason = "loaded", ""
        registered: tuple[Registrar[Any], ...] = ()
        refused = self._refusal(name)
        if refused is not None:
            state, reason = "blocked", refused
        elif place in _given_up:
            state, reason = "broken", _given_up[place]
        else:
            before = InterpreterState()
            try:
                if any(status.name == name for status in self._statuses):
                    raise ValueError(f"another plugin has the same name, {short_line(name, 60)!r}")
                registered = self._collect(name, load)
            except _Incompatible as mismatch:
                state, reason = "incompatible", short_line(mismatch)
            except TookTooLong as late:
                state, reason = "broken", f"its import and hooks {late}, so it was skipped"
                if place is not None:
                    _given_up[place] = reason
            except Exception as fault:
                state, reason = "broken", _describe(fault)
            changed = before.restore() if name != BUILTIN else ""
            if changed:
                then = f"; then {reason}" if reason else ""
                state, reason = "broken", f"it changed what the whole program uses, {short_line(changed)}{then}"
                registered = ()
        provides: list[str] = []
        for registrar in registered:
            for spec in registrar.specs:
                self._specs[registrar.kind].append(spec if name == BUILTIN else bounded(spec, self.limit_s))
                self._owners[registrar.kind][spec.name] = name
                provides.append(f"{registrar.kind.noun}: {spec.name}")
        self._record(name, state, reason, distribution=distribution, version=version, provides=tuple(provides))

    def _record(self, name: str, state: str, reason: str, **about: Any) -> None:
        name = short_line(name, 100)
        self._statuses.append(PluginStatus(name=name, state=state, reason=reason, **about))

    def _refusal(self, name: str) -> str | None:
        if name in self._block:
            return "listed in plugins.block"
        if self._allow is not None and name not in self._allow and name != BUILTIN:
            return "not listed in plugins.allow"
        return None

    def _collect(self, name: str, load: Callable[[], object]) -> tuple[Registrar[Any], ...]:
        """What a plugin registers. A plugin is foreign code: it may raise anything, exit, print, or never return."""
        if name == BUILTIN:
            return self._hooked(name, load())
        return on_own_thread(lambda: self._hooked(name, load()), limit_s=self.limit_s)

    def _hooked(self, name: str, plugin: object) -> tuple[Registrar[Any], ...]:
        _check_api(plugin)
        _check_hooks(plugin)
        # One pluggy manager per plugin, so that a faulty plugin leaves nothing behind in the hooks of the others.
        plugins = pluggy.PluginManager(PROJECT)
        plugins.add_hookspecs(HookSpecs)
        plugins.register(plugin, name)
        plugins.check_pending()
        registrars = tuple(Registrar(kind, self._owners[kind]) for kind in HOOKS)
        for registrar in registrars:
            hook = registrar.kind.hook
            returned = getattr(plugins.hook, hook)(register=registrar)
            if returned:  # a generator function, for example, whose body has not run
                raise TypeError(
                    f"{hook} returned {short_line(repr(returned[0]), 60)}; it must call register and return nothing"
                )
        return registrars


def _check_api(plugin: object) -> None:
    stated = getattr(plugin, "CORRAL_PLUGIN_API", None)
    wanted = f"this Corral supports {PLUGIN_API[0]}.x"
    if stated is None:
        raise _Incompatible(f"states no CORRAL_PLUGIN_API; {wanted}: CORRAL_PLUGIN_API = {PLUGIN_API}")
    if not (isinstance(stated, tuple) and len(stated) == 2 and all(type(part) is int for part in stated)):
        raise TypeError(f"CORRAL_PLUGIN_API must be a pair of numbers such as {PLUGIN_API}, not {stated!r:.100}")
    if stated[0] != PLUGIN_API[0]:
        raise _Incompatible(f"is written for plugin API {short_line('.'.join(map(str, stated)), 40)}; {wanted}")


def _check_hooks(plugin: object) -> None:
    """pluggy silently ignores a hook that is not marked, a mistake that is hard to find."""
    hooks = [kind.hook for kind in HOOKS]
    for name in dir(plugin):
        if not name.startswith("corral_"):
            continue
        value = getattr(plugin, name)
        if isinstance(value, ModuleType) or not callable(value):
            continue
        if name not in hooks:
            raise ValueError(f"{name} is not a hook of Corral; the hooks are {', '.join(hooks)}")
        if getattr(value, f"{PROJECT}_impl", None) is None:
            raise ValueError(f"{name} is not marked with @corral.plugins.hookimpl")


def _describe(fault: BaseException) -> str:
    text = short_line(fault) or type(fault).__name__
    if isinstance(fault, CorralError):
        return f"{text} ({short_line(fault.remedy)})" if fault.remedy else text
    return text if text == type(fault).__name__ else f"{type(fault).__name__}: {text}"


def _distribution(point: EntryPoint) -> tuple[str | None, str | None]:
    """Name and version of the distribution of an entry point; None for what its metadata does not say."""
    try:
        return (point.dist.name, point.dist.version) if point.dist is not None else (None, None)
    except Exception:
        return None, None


@cache
def _warn_once(name: str, state: str, reason: str) -> None:
    """A process may load plugins more than once, but one warning is enough."""
    _log.warning("the plugin %s is %s: %s (corral plugins lists all)", name, state, reason)
