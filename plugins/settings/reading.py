"""Reads the layers that settings come in: the file, the environment, flags."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from corral.core.errors import SettingsError
from corral.core.toml_values import toml_value
from corral.plugins.settings.environment import read_environment
from corral.plugins.settings.layers import Layers, Leaf
from corral.plugins.settings.schema import default_config_path
from corral.plugins.settings.sections import SettingPath

__all__ = ("parse_assignment", "read_layers")


def read_layers(
    path: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] = {},
) -> Layers:
    """Reads the file, then the environment; `flags` (by dotted path, as in TOML) override both.

    `path` is the file to read, which must exist. If it is None, ``CORRAL_CONFIG`` names the file, or else it is the
    user's own file, which may be absent. An empty `path` reads no file. Raises `SettingsError`.
    """
    stated = path if path is not None else environment.get("CORRAL_CONFIG") or None
    file = default_config_path(environment) if stated is None else stated
    layers: list[Mapping[SettingPath, Leaf]] = []
    if file:
        layers.append(_read_file(os.path.expanduser(file), required=stated is not None))
    layers.append(
        {path: Leaf(value=found.value, origin=found.variable) for path, found in read_environment(environment).items()}
    )
    layers.append({_parts(dotted): Leaf(value=value, origin="flag") for dotted, value in flags.items()})
    return Layers(layers)


def _parts(dotted: str) -> SettingPath:
    """Reads the path as a TOML key, in which a part with dots is quoted; otherwise splits it at its dots."""
    try:
        node = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return tuple(dotted.split("."))
    [(path, _)] = _flatten(node, ())
    return path


def parse_assignment(text: str) -> tuple[str, Any]:
    """``PATH=VALUE`` of a ``--set`` flag, the value as `toml_value` reads it. Raises `SettingsError`."""
    path, separator, value = text.partition("=")
    if not separator or not path.strip():
        raise SettingsError(f"--set {text!r} is not PATH=VALUE", "for example --set engines.llama-cpp.num_ctx=8192")
    return path.strip(), toml_value(value)


def _read_file(path: str, *, required: bool) -> dict[SettingPath, Leaf]:
    try:
        with open(path, "rb") as file:
            tree = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise SettingsError(f"there is no settings file {path!r}", "correct --config or CORRAL_CONFIG") from None
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise SettingsError(f"cannot read the settings file {path!r}: {fault}") from fault
    return {leaf_path: Leaf(value=value, origin=path) for leaf_path, value in _flatten(tree, ())}


def _flatten(tree: Mapping[str, Any], prefix: SettingPath) -> Iterable[tuple[SettingPath, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), value
