"""The base of every value that crosses a port: frozen, keyword-only, tagged, compact on the wire."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

__all__ = ("Value", "fields_in_common")


class Value(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """A frozen Struct whose wire form carries its class name, so unions of values decode by themselves.

    A subclass repeats ``frozen=True, kw_only=True``: msgspec does not inherit them for type checkers.
    """


def fields_in_common(source: msgspec.Struct, target: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields that `source` and `target` share, by name, with their values in `source`."""
    return {name: getattr(source, name) for name in _names_in_common(type(source), target)}


@cache
def _names_in_common(source: type[msgspec.Struct], target: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(name for name in source.__struct_fields__ if name in target.__struct_fields__)
