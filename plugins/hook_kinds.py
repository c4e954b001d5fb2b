"""The row types of the table of hooks: a kind of spec, and how the objects it leads to are checked and guarded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from corral.core.containment import short_line
from corral.core.errors import PluginError
from corral.core.specs.converters import ConverterSpec
from corral.core.specs.engines import EngineSpec
from corral.plugins.specs import FactorySpec, LazySpec

__all__ = (
    "AnySpec",
    "Factories",
    "Factory",
    "HookKind",
    "Part",
    "Spec",
    "Target",
    "Targets",
    "implements",
    "require_port",
)

AnySpec = EngineSpec | ConverterSpec | LazySpec
Spec = TypeVar("Spec", bound=AnySpec)
Factory = TypeVar("Factory", bound=FactorySpec)
Target = TypeVar("Target", bound=LazySpec)
Part = TypeVar("Part")


class HookKind(msgspec.Struct, Generic[Spec], frozen=True, kw_only=True, eq=False):
    """One kind of hook: its specs are used as they are.

    `plural` names the hook (``corral_register_engines``) and the section of the settings (``[engines.NAME]``), `noun`
    one spec in messages. `doc` is the section of the documentation. `settings` is the field of a spec that holds the
    Struct of its settings, None if this kind has none. `check` raises `PluginError` for a spec that cannot be used.
    """

    plural: str
    noun: str
    spec_type: type[Spec]
    doc: str
    settings: str | None = None
    check: Callable[[Spec], None] = lambda spec: None

    @property
    def hook(self) -> str:
        return f"corral_register_{self.plural}"

    def settings_of(self, spec: Spec) -> type[msgspec.Struct] | None:
        """The Struct that decodes the settings of this spec; None if it has no settings."""
        return getattr(spec, self.settings) if self.settings is not None else None


class Factories(HookKind[Factory], Generic[Factory, Part], frozen=True, kw_only=True, eq=False):
    """A kind whose specs name factories, which are called on assembly.

    `check_part(name, part)` raises `PluginError` for a part that is not what its port requires. `guard(part, where)`
    wraps a plugin's part so that its faults become errors of Corral that contain `where`. `selected`: only the spec
    that a setting selects is used.
    """

    settings: str | None = "settings"
    check_part: Callable[[str, Part], None]
    guard: Callable[[Part, str], Part] = lambda part, where: part
    selected: bool = False


class Targets(HookKind[Target], Generic[Target, Part], frozen=True, kw_only=True, eq=False):
    """A kind whose specs name objects, which are imported when they are used.

    `target_type` is the import path of their class, whose package is not imported before that.
    """

    target_type: str


def implements(port: Any) -> Callable[[str, object], None]:
    """A `check_part` for parts that implement a Protocol."""
    return lambda name, part: require_port("the result of its factory", part, port)


def require_port(what: str, part: object, port: Any) -> None:
    """Raises `PluginError` that names the first member of the Protocol `port` that `part` lacks."""
    for name, promised in _promises(port):
        had = getattr(part, name, None)
        fine = isinstance(had, str | tuple) if isinstance(promised, property) else callable(had)
        if not fine:
            shown = short_line(repr(part), 60)
            raise PluginError(
                f"{what} is {type(part).__name__} {shown}, which does not implement {name} as its port requires"
            )


@cache
def _promises(port: Any) -> Sequence[tuple[str, object]]:
    """The public methods and properties of a Protocol."""
    members = inspect.getmembers(port, lambda one: isinstance(one, property) or inspect.isfunction(one))
    return [(name, member) for name, member in members if not name.startswith("_")]
