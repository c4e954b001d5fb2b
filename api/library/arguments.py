"""Checks the arguments that callers pass to the library; errors name the argument."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import UnsetType

from corral.core.errors import InvalidOption, InvalidRequest
from corral.core.go.durations import parse_keep_alive_s
from corral.core.requests.options import OPTIONS
from corral.core.wording.suggestions import nearest

__all__ = (
    "checked",
    "checked_callback",
    "checked_count",
    "checked_format",
    "checked_ids",
    "checked_options",
    "checked_path",
    "keep_alive_s",
    "refuse_unknown",
    "texts_of",
)


def checked(name: str, value: Any, *kinds: type | None) -> Any:
    """Returns `value` if it has one of these types; a bool is not a number. Otherwise raises `InvalidRequest`."""
    types = tuple(type(None) if kind is None else kind for kind in kinds)
    if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
        return value
    wanted = " or ".join("None" if kind is None else kind.__name__ for kind in kinds)
    raise InvalidRequest(f"{name}: expected {wanted}, got {_shown(value)}")


def checked_count(name: str, value: Any, *, least: int) -> int | None:
    """An integer of at least `least`, or None. Otherwise raises `InvalidRequest`."""
    number: int | None = checked(name, value, int, None)
    if number is not None and number < least:
        raise InvalidRequest(f"{name}: expected at least {least}, got {number}")
    return number


def checked_ids(name: str, value: Any) -> tuple[int, ...]:
    """Token ids. Raises `InvalidRequest` for anything but integers."""
    try:
        ids = tuple(value)
    except TypeError:
        ids = (None,)
    if any(type(one) is not int for one in ids):
        raise InvalidRequest(f"{name}: expected token ids, got {_shown(value)}")
    return ids


def checked_callback(name: str, value: Any) -> Any:
    """Returns `value` if it is callable or None. Otherwise raises `InvalidRequest`."""
    if value is not None and not callable(value):
        raise InvalidRequest(f"{name}: expected a function, got {_shown(value)}")
    return value


def checked_path(name: str, value: Any) -> str:
    """The path as a string. Raises `InvalidRequest` if `value` is not a path, or is empty."""
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidRequest(f"{name}: expected the path of a file or folder, got {_shown(value)}")
    return path


def checked_options(value: Any, name: str = "options") -> dict[str, Any]:
    """A mapping with string keys, copied to a dict; None becomes an empty one. Otherwise raises `InvalidOption`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidOption(f"{name}: expected a mapping such as a dict, got {_shown(value)}")
    for key in value:
        if not isinstance(key, str):
            raise InvalidOption(f"{name}: names must be strings, not {_shown(key)}")
    return dict(value)


def checked_format(value: Any) -> Any:
    """Returns `value` if it is None, a string or a mapping. Otherwise raises `InvalidOption`."""
    if value is None or isinstance(value, str | Mapping):
        return value
    remedy = "for a pydantic model pass Model.model_json_schema()" if hasattr(value, "model_json_schema") else None
    raise InvalidOption(f'invalid format: expected "json" or a JSON Schema as a mapping, got {_shown(value)}', remedy)


def keep_alive_s(value: Any) -> float | UnsetType | None:
    """As `parse_keep_alive_s`; the `InvalidRequest` it raises names the argument."""
    try:
        return parse_keep_alive_s(value)
    except InvalidRequest as fault:
        raise InvalidRequest(
            f"keep_alive: {fault.message}", "use seconds, a string such as '5m', or -1 for no limit"
        ) from fault


def texts_of(inputs: Any, name: str = "inputs") -> tuple[str, ...]:
    """The texts of an argument, from one string or several. Otherwise raises `InvalidRequest`."""
    if isinstance(inputs, str):
        return (inputs,)
    if isinstance(inputs, Iterable) and not isinstance(inputs, bytes | bytearray | Mapping):
        texts = tuple(inputs)
        for text in texts:
            if not isinstance(text, str):
                raise InvalidRequest(f"{name}: each must be a string, got {_shown(text)}")
        return texts
    raise InvalidRequest(f"{name}: expected a string or a list of strings, got {_shown(inputs)}")


def refuse_unknown(
    call: str, given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Raises `TypeError` for the first keyword that `call` does not accept, with where it belongs (`elsewhere`), or the
    closest match.
    """
    names = list(known)
    for name in given:
        if name in names:
            continue
        if name in elsewhere:
            raise TypeError(f"{call} has no argument {name!r}; {elsewhere[name]}")
        near = nearest(name, names)
        if name in OPTIONS and "options" in names:
            meant = f"options={{{name!r}: …}}"
        elif near is not None:
            meant = near
        else:
            raise TypeError(f"{call} has no argument {name!r}; its arguments are {', '.join(names)}")
        raise TypeError(f"{call} has no argument {name!r}; did you mean {meant}?")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}"
