"""The layers of settings (defaults, file, environment, flags: the last wins), decoded into `Settings` in two phases."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from corral.core.errors import SettingsError
from corral.core.giving_way import fewest_given_up
from corral.core.scheduling.load_options import YieldingOption
from corral.plugins.settings.origins import origin_rows
from corral.plugins.settings.schema import SECTIONS, ModelSettings, PluginsSettings, Settings, TopSettings
from corral.plugins.settings.sections import (
    SettingPath,
    decode_section,
    dotted,
    fault_of,
    refuse_unknown,
    section_fault,
)

__all__ = ("Layers", "Leaf")

_log = logging.getLogger(__name__)

_STATED = ("engines", "converters")
"""Sections kept as stated: the options of a model and a request are merged with them before defaults are added."""


_TOP_LEVEL = tuple(field.name for field in msgspec.structs.fields(TopSettings))


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """A value that was set, and where it was set."""

    value: Any
    origin: str


class Layers:
    """All values that were set. `plugins` can be decoded at once, the rest when the plugins are known."""

    def __init__(self, layers: Iterable[Mapping[SettingPath, Leaf]] = ()) -> None:
        self._layers = tuple(layers)
        self._warned: set[str] = set()

    def plugins(self) -> PluginsSettings:
        """Phase one: which plugins to load. Raises `SettingsError`."""
        leaves = self._settled({}, {})
        return decode_section(_tree(leaves).get("plugins", {}), PluginsSettings, ("plugins",), _origins(leaves))

    def decode(
        self, registered: Mapping[str, Mapping[str, type[msgspec.Struct] | None]] = {}, *, complete: bool = True
    ) -> Settings:
        """Phase two: everything, the sections of registered specs by their own Structs.

        `registered` has the Struct of each spec with settings by section and name; None for a spec without any. Raises
        `SettingsError` that names the path of an unknown key or a mistyped value. A section of a spec that is not
        registered is an error if the plugins are `complete`, and ignored if one of them was not loaded.
        """
        engines, kinds = registered.get("engines", {}), _kinds(registered)
        leaves = self._settled(engines, kinds)
        tree, origins = _tree(leaves), _origins(leaves)
        refuse_unknown(tree, [*SECTIONS, *_TOP_LEVEL, "models", *registered], (), origins)
        decoded: dict[str, Any] = {}
        for section, kind in SECTIONS.items():
            decoded[section] = decode_section(_table(tree, section), kind, (section,), origins)
        stated_top = {name: tree[name] for name in _TOP_LEVEL if name in tree}
        top = msgspec.structs.asdict(decode_section(stated_top, TopSettings, (), origins))
        models = {
            name: decode_section(value, ModelSettings, ("models", name), origins)
            for name, value in _table(tree, "models").items()
        }
        plugin_structs: dict[str, dict[str, Any]] = {}
        for section, specs in registered.items():
            tables = _table(tree, section)
            if complete:
                refuse_unknown(tables, specs, (section,), origins)
            plugin_structs[section] = {
                name: decode_section(tables.get(name, {}), kind or _NoSettings, (section, name), origins)
                for name, kind in specs.items()
            }
        stated = {
            section: {name: table for name in specs if (table := tree.get(section, {}).get(name))}
            for section, specs in registered.items()
            if section in _STATED
        }
        return Settings(
            **decoded,
            engines=stated.get("engines", {}),
            yielding=self._yielding(leaves, engines, kinds),
            converters=stated.get("converters", {}),
            **top,
            models=models,
            parts={section: structs for section, structs in plugin_structs.items() if section not in _STATED},
            origins=tuple(origin_rows(decoded | top | {"models": models} | plugin_structs, origins)),
        )

    def _settled(
        self, engines: Mapping[str, type[msgspec.Struct] | None], kinds: Mapping[SettingPath, type[msgspec.Struct]]
    ) -> dict[SettingPath, Leaf]:
        """The values that count. Those of Ollama's variables give way, as in Ollama, if others of their section exclude
        them: as few as possible, and of as many, those that come later in the table of variables. Ollama goes on
        without OLLAMA_KV_CACHE_TYPE if OLLAMA_FLASH_ATTENTION excludes it.
        """
        leaves = self._leaves(engines, kinds, ())
        given_up: list[SettingPath] = []
        for section in kinds:
            ollamas = [path for path, leaf in leaves.items() if path[:-1] == section and _is_ollamas(leaf)]
            if not ollamas:
                continue
            found = fewest_given_up(ollamas, partial(self._fault_without, engines, kinds, section))
            for path, fault in found.items():
                self._warn(f"{leaves[path].origin}={leaves[path].value!r} is ignored: {fault}")
            given_up += found
        return self._leaves(engines, kinds, given_up) if given_up else leaves

    def _fault_without(
        self,
        engines: Mapping[str, type[msgspec.Struct] | None],
        kinds: Mapping[SettingPath, type[msgspec.Struct]],
        section: SettingPath,
        given_up: Collection[SettingPath],
    ) -> str | None:
        """What is wrong with a section if Ollama's variables do not say what they do at the paths `given_up`."""
        table: Any = _tree(self._leaves(engines, kinds, given_up))
        for part in section:
            table = table.get(part, {})
        return section_fault(table, kinds[section])

    def _yielding(
        self,
        leaves: Mapping[SettingPath, Leaf],
        engines: Mapping[str, type[msgspec.Struct] | None],
        kinds: Mapping[SettingPath, type[msgspec.Struct]],
    ) -> dict[str, dict[str, YieldingOption]]:
        """The load options that are what Ollama's variables say, by engine and name."""
        ollamas = {path: leaf for path, leaf in leaves.items() if path[0] == "engines" and _is_ollamas(leaf)}
        beneath = self._leaves(engines, kinds, ollamas)
        found: dict[str, dict[str, YieldingOption]] = {}
        for (_, engine, name), leaf in ollamas.items():
            below = beneath.get(("engines", engine, name))
            option = YieldingOption(variable=leaf.origin, instead=None if below is None else below.value)
            found.setdefault(engine, {})[name] = option
        return found

    def _leaves(
        self,
        engines: Mapping[str, type[msgspec.Struct] | None],
        kinds: Mapping[SettingPath, type[msgspec.Struct]],
        given_up: Collection[SettingPath],
    ) -> dict[SettingPath, Leaf]:
        """The values that count, by path. What Ollama's variables say at the paths `given_up` does not."""
        leaves: dict[SettingPath, Leaf] = {}
        for layer in self._layers:
            for path, leaf in layer.items():
                for target in _expand(path, engines):
                    if _is_ollamas(leaf) and target in given_up:
                        continue
                    if _is_ollamas(leaf) and (fault := fault_of(target, leaf.value, kinds)):
                        self._warn(f"{leaf.origin}={leaf.value!r} is ignored: {fault}")
                        continue
                    # A table replaces a value at its path, and a value replaces a whole table.
                    for other in [known for known in leaves if known[: len(target)] == target]:
                        del leaves[other]
                    leaves[target] = leaf
        return leaves

    def _warn(self, message: str) -> None:
        """Logs a message once, however often the settings are decoded."""
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s", message)


class _NoSettings(msgspec.Struct, frozen=True):
    """The section of a spec that has no settings."""


def _is_ollamas(leaf: Leaf) -> bool:
    return leaf.origin.startswith("OLLAMA_")


def _tree(leaves: Mapping[SettingPath, Leaf]) -> dict[str, Any]:
    """The values as nested tables. Raises `SettingsError` for a value where a table belongs."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise SettingsError(f"{dotted(path[:-1])}: Expected a table ({leaf.origin})")
        node[path[-1]] = leaf.value
    return tree


def _origins(leaves: Mapping[SettingPath, Leaf]) -> dict[SettingPath, str]:
    return {path: leaf.origin for path, leaf in leaves.items()}


def _expand(path: SettingPath, engines: Mapping[str, type[msgspec.Struct] | None]) -> Iterable[SettingPath]:
    if path[:2] != ("engines", "*") or len(path) == 2:
        return [path]
    return [
        ("engines", name, *path[2:])
        for name, options in engines.items()
        if options is not None and path[2] in options.__struct_fields__
    ]


def _kinds(
    registered: Mapping[str, Mapping[str, type[msgspec.Struct] | None]],
) -> Mapping[SettingPath, type[msgspec.Struct]]:
    """The Struct of each section that is known, by the section's path."""
    own: dict[SettingPath, type[msgspec.Struct]] = {(name,): kind for name, kind in SECTIONS.items()}
    specs = {(section, name): kind for section, of in registered.items() for name, kind in of.items() if kind}
    return own | specs


def _table(tree: Mapping[str, Any], section: str) -> dict[str, Any]:
    table = tree.get(section, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{section}: Expected a table, got `{type(table).__name__}`")
    return table
