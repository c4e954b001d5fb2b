"""The layers that settings come in, file, environment and flags, and their decoding into `Settings`, in two phases."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec
import msgspec.inspect

from corral.core.errors import SettingsError
from corral.core.wording.suggestions import nearest
from corral.plugins.settings.environment import read_environment
from corral.plugins.settings.schema import (
    SECTIONS,
    ModelSettings,
    Origin,
    PluginsSettings,
    Settings,
    default_config_path,
)
from corral.plugins.settings.types import decode_setting_type, encode_setting_type

__all__ = ("Layers", "parse_assignment", "read_layers")

_log = logging.getLogger(__name__)

Path = tuple[str, ...]
S = TypeVar("S", bound=msgspec.Struct)

_STATED = ("engines", "converters")
"""Sections kept as stated: the options of a model and a request are merged with them before defaults are added."""


_TOP_LEVEL: Mapping[str, str | None] = {"store": "filesystem", "registry": None}
"""Settings outside of any section, and their defaults."""


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """A stated value and who stated it."""

    value: Any
    origin: str


class Layers:
    """What was stated, weakest layer first. `plugins` can be decoded at once, the rest once the plugins are known."""

    def __init__(self, layers: Iterable[Mapping[Path, Leaf]] = ()) -> None:
        self._layers = tuple(layers)
        self._warned: set[str] = set()

    def plugins(self) -> PluginsSettings:
        """Phase one: which plugins to load. Raises `SettingsError`."""
        tree, origins = self._merge({}, {})
        return _decode(tree.get("plugins", {}), PluginsSettings, ("plugins",), origins)

    def decode(
        self, registered: Mapping[str, Mapping[str, type[msgspec.Struct] | None]] = {}, *, complete: bool = True
    ) -> Settings:
        """Phase two: everything, the sections of registered specs by their own Structs.

        `registered` has the Struct of each spec with settings by section and name; None for a spec without any. Raises
        `SettingsError` that names the path of an unknown key or a mistyped value. A section of a spec that nobody
        registered is an error if the plugins are `complete`, and ignored if one of them was not loaded.
        """
        tree, origins = self._merge(registered.get("engines", {}), _kinds(registered))
        _refuse_unknown(tree, [*SECTIONS, *_TOP_LEVEL, "models", *registered], ())
        decoded: dict[str, Any] = {}
        for section, kind in SECTIONS.items():
            decoded[section] = _decode(_table(tree, section), kind, (section,), origins)
        top: dict[str, Any] = {name: tree.get(name, default) for name, default in _TOP_LEVEL.items()}
        for name, value in top.items():
            if name in tree and not isinstance(value, str):
                raise SettingsError(f"{name}: Expected `str`, got `{type(value).__name__}`")
        models = {
            name: _decode(value, ModelSettings, ("models", name), origins)
            for name, value in _table(tree, "models").items()
        }
        plugin_structs: dict[str, dict[str, Any]] = {}
        for section, specs in registered.items():
            tables = _table(tree, section)
            if complete:
                _refuse_unknown(tables, specs, (section,))
            plugin_structs[section] = {
                name: _decode(tables.get(name, {}), kind or _NoSettings, (section, name), origins)
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
            converters=stated.get("converters", {}),
            **top,
            models=models,
            parts={section: structs for section, structs in plugin_structs.items() if section not in _STATED},
            origins=tuple(_rows(decoded | top | {"models": models} | plugin_structs, origins)),
        )

    def _merge(
        self, engines: Mapping[str, type[msgspec.Struct] | None], kinds: Mapping[Path, type[msgspec.Struct]]
    ) -> tuple[dict[str, Any], dict[Path, str]]:
        leaves: dict[Path, Leaf] = {}
        for layer in self._layers:
            for path, leaf in layer.items():
                for target in _expand(path, engines):
                    if leaf.origin.startswith("OLLAMA_") and (fault := _fault(target, leaf.value, kinds)):
                        self._warn(f"{leaf.origin}={leaf.value!r} is ignored: {fault}")
                        continue
                    # A table replaces what stood at its place, and a value a whole table.
                    for other in [known for known in leaves if known[: len(target)] == target]:
                        del leaves[other]
                    leaves[target] = leaf
        tree: dict[str, Any] = {}
        for path, leaf in leaves.items():
            node = tree
            for part in path[:-1]:
                node = node.setdefault(part, {})
                if not isinstance(node, dict):
                    raise SettingsError(f"{_dotted(path[:-1])}: Expected a table ({leaf.origin})")
            node[path[-1]] = leaf.value
        return tree, {path: leaf.origin for path, leaf in leaves.items()}

    def _warn(self, message: str) -> None:
        """Once, however often the settings are decoded."""
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s", message)


class _NoSettings(msgspec.Struct, frozen=True):
    """The section of a spec that has no settings."""


def read_layers(
    path: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] = {},
) -> Layers:
    """Reads the file, then the environment; `flags` (dotted paths, as in TOML) are strongest.

    `path` is the file to read, which must exist then; without it ``CORRAL_CONFIG``, else the user's own file where
    there is one; an empty `path` reads no file. Raises `SettingsError`.
    """
    stated = path if path is not None else environment.get("CORRAL_CONFIG") or None
    file = default_config_path(environment) if stated is None else stated
    layers: list[Mapping[Path, Leaf]] = []
    if file:
        layers.append(_read_file(os.path.expanduser(file), required=stated is not None))
    layers.append(
        {path: Leaf(value=found.value, origin=found.variable) for path, found in read_environment(environment).items()}
    )
    layers.append({_parts(dotted): Leaf(value=value, origin="flag") for dotted, value in flags.items()})
    return Layers(layers)


def _parts(dotted: str) -> Path:
    """A TOML key, so that a part with dots can stand in quotes; or else what stands between the dots."""
    try:
        node = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return tuple(dotted.split("."))
    [(path, _)] = _flatten(node, ())
    return path


def parse_assignment(text: str) -> tuple[str, Any]:
    """``PATH=VALUE`` of a ``--set`` flag; the value is TOML, or else a text. Raises `SettingsError`."""
    path, separator, value = text.partition("=")
    if not separator or not path.strip():
        raise SettingsError(f"--set {text!r} is not PATH=VALUE", "for example --set engines.llama-cpp.num_ctx=8192")
    try:
        return path.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return path.strip(), value.strip()


def _read_file(path: str, *, required: bool) -> dict[Path, Leaf]:
    try:
        with open(path, "rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise SettingsError(f"there is no settings file {path!r}", "correct --config or CORRAL_CONFIG") from None
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise SettingsError(f"cannot read the settings file {path!r}: {fault}") from fault
    return {leaf_path: Leaf(value=value, origin=path) for leaf_path, value in _flatten(tree, ())}


def _flatten(tree: Mapping[str, Any], prefix: Path) -> Iterable[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _expand(path: Path, engines: Mapping[str, type[msgspec.Struct] | None]) -> Iterable[Path]:
    if path[:2] != ("engines", "*") or len(path) == 2:
        return [path]
    return [
        ("engines", name, *path[2:])
        for name, options in engines.items()
        if options is not None and path[2] in options.__struct_fields__
    ]


def _kinds(
    registered: Mapping[str, Mapping[str, type[msgspec.Struct] | None]],
) -> Mapping[Path, type[msgspec.Struct]]:
    """The Struct of each section that is known, by the section's path."""
    own: dict[Path, type[msgspec.Struct]] = {(name,): kind for name, kind in SECTIONS.items()}
    specs = {(section, name): kind for section, of in registered.items() for name, kind in of.items() if kind}
    return own | specs


def _fault(path: Path, value: Any, kinds: Mapping[Path, type[msgspec.Struct]]) -> str | None:
    """What is wrong with a value for the setting at `path`; None if nothing is, or if nobody knows the setting."""
    kind = kinds.get(path[:-1])
    if kind is None:
        return None
    for field in msgspec.structs.fields(kind):
        if field.encode_name == path[-1]:
            try:
                msgspec.convert(value, field.type, dec_hook=decode_setting_type)
            except msgspec.ValidationError as fault:
                choices = _choices(kind, path[-1])
                return f"{fault}; choose one of {', '.join(choices)}" if choices else str(fault)
    return None


def _table(tree: Mapping[str, Any], section: str) -> dict[str, Any]:
    table = tree.get(section, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{section}: Expected a table, got `{type(table).__name__}`")
    return table


def _refuse_unknown(tree: Mapping[str, Any], known: Iterable[str], prefix: Path) -> None:
    names = list(known)
    for key in tree:
        if key not in names:
            near = nearest(key, names)
            there = f"there are: {', '.join(names)}" if names else "this section has none"
            raise SettingsError(
                f"unknown setting {_dotted((*prefix, key))}",
                f"did you mean {_dotted((*prefix, near))}?" if near is not None else there,
            )


def _decode(table: Any, kind: type[S], prefix: Path, origins: Mapping[Path, str]) -> S:
    if not isinstance(table, dict):
        raise SettingsError(f"{_dotted(prefix)}: Expected a table, got `{type(table).__name__}`")
    names = {field.encode_name: field.name for field in msgspec.structs.fields(kind)}
    _refuse_unknown(table, names, prefix)
    try:
        return msgspec.convert(table, kind, dec_hook=decode_setting_type)
    except msgspec.ValidationError as fault:
        message, _, where = str(fault).partition(" - at `$")
        where = where.removesuffix("`")
        name = re.split(r"[.\[]", where.lstrip("."))[0]
        origin = origins.get((*prefix, name))
        remedies = [f"it was set by {origin}"] if origin else []
        if choices := _choices(kind, name):
            remedies.append(f"choose one of {', '.join(choices)}")
        raise SettingsError(f"{_dotted(prefix)}{where}: {message}", "; ".join(remedies) or None) from fault


def _choices(kind: type[msgspec.Struct], name: str) -> list[str]:
    """What may stand in a field that takes certain texts only; empty for any other field."""
    for field in msgspec.structs.fields(kind):
        found = msgspec.inspect.type_info(field.type)
        if isinstance(found, msgspec.inspect.Metadata):
            found = found.type
        if field.encode_name == name and isinstance(found, msgspec.inspect.LiteralType):
            return [str(value) for value in found.values]
    return []


def _rows(values: Mapping[str, Any], origins: Mapping[Path, str], prefix: Path = ()) -> Iterable[Origin]:
    for name, value in values.items():
        path = (*prefix, name)
        if isinstance(value, msgspec.Struct):
            yield from _rows({field: _shown(value, field) for field in value.__struct_fields__}, origins, path)
        elif isinstance(value, dict) and path not in origins:
            yield from _rows(value, origins, path)
        else:
            yield Origin(path=_dotted(path), value=_plain(value), origin=origins.get(path, "default"))


def _plain(value: Any) -> Any:
    """As JSON says it. A table that was set as one value may hold secrets as well."""
    if isinstance(value, msgspec.Struct):
        return {field: _plain(_shown(value, field)) for field in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return msgspec.to_builtins(value, enc_hook=encode_setting_type)


def _shown(settings: msgspec.Struct, field: str) -> Any:
    """What ``corral config`` may print: a field with ``Meta(extra={"secret": True})`` only says that it is set."""
    value = getattr(settings, field)
    hint = get_type_hints(type(settings), include_extras=True)[field]
    secret = any((meta.extra or {}).get("secret") for meta in getattr(hint, "__metadata__", ()))
    return "***" if secret and value else value


def _dotted(path: Path) -> str:
    return ".".join(part if part.replace("-", "").replace("_", "").isalnum() else f'"{part}"' for part in path)
