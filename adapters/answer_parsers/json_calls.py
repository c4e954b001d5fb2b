"""Reads tool calls that models write as JSON objects."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import msgspec

from corral.core.requests.messages import ToolCall
from corral.core.wording.clipping import clipped

__all__ = ("call_of", "decoded", "known_name")


def decoded(text: str) -> Any:
    """The value of a JSON text; line breaks in strings are accepted. Raises `ValueError` for anything else."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        pass
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse)
        # Half a surrogate pair, or a number that has become infinity, could not be sent.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def known_name(name: Any, known: Collection[str]) -> str:
    """`name`, if it is one of a tool. Raises `ValueError`."""
    if not isinstance(name, str):
        raise ValueError("it names no tool")
    if name not in known:
        raise ValueError(f"there is no tool {clipped(name, 100)!r}")
    return name


def call_of(value: Any, known: Collection[str]) -> ToolCall:
    """The call that a decoded object describes. Raises `ValueError`.

    ``{"name": …, "arguments": {…}}``, with `parameters` for `arguments` in some models, or around it all ``{"function":
    …}``. Arguments may be a JSON text, or missing if there are none.
    """
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping):
        raise ValueError("it is not a JSON object")
    name = known_name(value.get("name"), known)
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = decoded(arguments) if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError("its arguments are not a JSON object")
    return ToolCall(name=name, arguments=arguments)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
