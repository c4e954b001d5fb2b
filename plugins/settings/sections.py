"""Decodes a section of the settings into its Struct; errors name the path of the setting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, get_type_hints

import msgspec

from corral.core.choices import choices_of, in_listed_case
from corral.core.containment import short_line
from corral.core.errors import InvalidOption, SettingsError
from corral.core.malformed import Mistyped, mistyped
from corral.core.wording.suggestions import nearest
from corral.plugins.settings.types import decode_setting_type

__all__ = ("SettingPath", "decode_section", "dotted", "fault_of", "refuse_unknown", "secret_fields", "section_fault")

SettingPath = tuple[str, ...]
S = TypeVar("S", bound=msgspec.Struct)

_EXPECTED = re.compile(r"Expected `(\w+)")
_HOW_TO_WRITE = {
    "array": "write a list, such as ['a', 'b']",
    "bool": "write true or false, without quotes",
    "float": "write a number, without quotes",
    "int": "write a number, without quotes",
}
"""Remedies for values of another type than a setting has, by msgspec's name of that."""


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
        return _converted(table, kind)
    except msgspec.ValidationError as fault:
        found = mistyped(fault)
        name = re.split(r"[.\[]", found.path.lstrip("."))[0]
        # If settings contradict each other, the fault has no path, and names them.
        named = [name] if name else [one for one in table if one in found.message]
        set_by = dict.fromkeys(origins[(*prefix, one)] for one in named if (*prefix, one) in origins)
        remedies = [f"it was set by {' and '.join(set_by)}"] if set_by else []
        remedies += _remedies(fault, found, choices_of(kind, name))
        path = f"{dotted(prefix)}{found.path}".removeprefix(".")
        value = None if name in secret_fields(kind) else table.get(name)
        message = _with_value(found, value) if found.path == f".{name}" else found.message
        raise SettingsError(f"{path}: {message}", "; ".join(remedies) or None) from fault


def _converted(table: Mapping[str, Any], kind: type[S]) -> S:
    return msgspec.convert(in_listed_case(table, kind), kind, dec_hook=decode_setting_type)


def _with_value(found: Mistyped, value: Any) -> str:
    """What is wrong, with the value, unless that is in it already."""
    if not isinstance(value, str | int | float) or not found.message.startswith("Expected"):
        return found.message
    return f"{found.message}{' ' if found.given else ', got '}{short_line(repr(value), 60)}"


def _remedies(fault: msgspec.ValidationError, found: Mistyped, choices: tuple[str, ...]) -> Iterable[str]:
    if isinstance(fault.__cause__, InvalidOption) and fault.__cause__.remedy:
        yield fault.__cause__.remedy
    if choices:
        yield f"choose one of {', '.join(choices)}"
    expected = _EXPECTED.match(found.message) if found.given else None
    if expected is not None and expected[1] in _HOW_TO_WRITE:
        yield _HOW_TO_WRITE[expected[1]]


def fault_of(path: SettingPath, value: Any, kinds: Mapping[SettingPath, type[msgspec.Struct]]) -> str | None:
    """What is wrong with a value for the setting at `path`, whatever else is set; None if nothing is, or if the setting
    is unknown.
    """
    kind = kinds.get(path[:-1])
    if kind is None:
        return None
    name = path[-1]
    for field in msgspec.structs.fields(kind):
        if field.encode_name == name:
            try:
                msgspec.convert(in_listed_case({name: value}, kind)[name], field.type, dec_hook=decode_setting_type)
            except msgspec.ValidationError as fault:
                choices = choices_of(kind, name)
                return "; ".join(
                    [mistyped(fault).message, *([f"choose one of {', '.join(choices)}"] if choices else [])]
                )
    return None


def section_fault(table: Mapping[str, Any], kind: type[msgspec.Struct]) -> str | None:
    """What is wrong with the settings of a section; None if nothing is."""
    try:
        _converted(table, kind)
    except msgspec.ValidationError as fault:
        return mistyped(fault).message
    return None


@cache
def secret_fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The fields with ``Meta(extra={"secret": True})``, whose values nobody may print."""
    hints = get_type_hints(kind, include_extras=True)
    return frozenset(
        field
        for field in kind.__struct_fields__
        if any((meta.extra or {}).get("secret") for meta in getattr(hints[field], "__metadata__", ()))
    )


def dotted(path: SettingPath) -> str:
    return ".".join(part if part.replace("-", "").replace("_", "").isalnum() else f'"{part}"' for part in path)
