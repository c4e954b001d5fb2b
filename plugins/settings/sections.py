"""Decodes a section of the settings into its Struct; errors name the path of the setting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import msgspec.inspect

from corral.core.errors import SettingsError
from corral.core.malformed import mistyped
from corral.core.wording.suggestions import nearest
from corral.plugins.settings.types import decode_setting_type

__all__ = ("SettingPath", "decode_section", "dotted", "fault_of", "refuse_unknown")

SettingPath = tuple[str, ...]
S = TypeVar("S", bound=msgspec.Struct)


def refuse_unknown(
    tree: Mapping[str, Any], known: Iterable[str], prefix: SettingPath, origins: Mapping[SettingPath, str]
) -> None:
    """Raises `SettingsError` for a key of the section `prefix` that is not among `known`."""
    names = list(known)
    for key in tree:
        if key not in names:
            path = (*prefix, key)
            origin = next((origin for stated, origin in origins.items() if stated[: len(path)] == path), None)
            near = nearest(key, names)
            there = f"there are: {', '.join(names)}" if names else "this section has none"
            remedies = [f"it was set by {origin}"] if origin else []
            remedies.append(f"did you mean {dotted((*prefix, near))}?" if near is not None else there)
            raise SettingsError(f"unknown setting {dotted(path)}", "; ".join(remedies))


def decode_section(table: Any, kind: type[S], prefix: SettingPath, origins: Mapping[SettingPath, str]) -> S:
    if not isinstance(table, dict):
        raise SettingsError(f"{dotted(prefix)}: Expected a table, got `{type(table).__name__}`")
    names = kind.__struct_encode_fields__
    refuse_unknown(table, names, prefix, origins)
    try:
        return msgspec.convert(table, kind, dec_hook=decode_setting_type)
    except msgspec.ValidationError as fault:
        found = mistyped(fault)
        name = re.split(r"[.\[]", found.path.lstrip("."))[0]
        origin = origins.get((*prefix, name))
        remedies = [f"it was set by {origin}"] if origin else []
        if choices := _choices(kind, name):
            remedies.append(f"choose one of {', '.join(choices)}")
        path = f"{dotted(prefix)}{found.path}".removeprefix(".")
        raise SettingsError(f"{path}: {found.message}", "; ".join(remedies) or None) from fault


def _choices(kind: type[msgspec.Struct], name: str) -> list[str]:
    """The texts that a field accepts; empty for a field that accepts others."""
    for field in msgspec.structs.fields(kind):
        found = msgspec.inspect.type_info(field.type)
        if isinstance(found, msgspec.inspect.Metadata):
            found = found.type
        if field.encode_name == name and isinstance(found, msgspec.inspect.LiteralType):
            return [str(value) for value in found.values]
    return []


def fault_of(path: SettingPath, value: Any, kinds: Mapping[SettingPath, type[msgspec.Struct]]) -> str | None:
    """What is wrong with a value for the setting at `path`; None if nothing is, or if the setting is unknown."""
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


def dotted(path: SettingPath) -> str:
    return ".".join(part if part.replace("-", "").replace("_", "").isalnum() else f'"{part}"' for part in path)
