"""Tells clients what of their request has had no effect, and what happened to their answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from corral.core.requests.outputs import Finished, Started

__all__ = ("IGNORED_HEADER", "ByType", "Fields", "Remarks", "unused_fields")

IGNORED_HEADER = b"x-corral-ignored"
"""The header that lists ignored fields and options, separated by commas."""

_MOST_NAMES, _LONGEST_NAME = 64, 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.: -]")

Fields = Mapping[str, "Fields | ByType | None"]
"""The fields of an object that have an effect; None stands for a value of which everything has one."""


class ByType(msgspec.Struct, frozen=True):
    """Objects whose field ``type`` tells which other fields they may have; those that state none are of the type
    `default`. Other types are not looked at.
    """

    fields: Mapping[str, Fields]
    default: str | None = None


class Remarks:
    """What has been ignored so far: fields of the request, and then the options that the engine does not have."""

    def __init__(self, ignored: Iterable[str]) -> None:
        self._ignored = list(ignored)

    def started(self, output: Started) -> None:
        self._ignored += output.ignored_options

    def headers(self) -> list[tuple[bytes, bytes]]:
        if not self._ignored:
            return []
        names = [_UNSAFE.sub("?", name)[:_LONGEST_NAME] for name in dict.fromkeys(self._ignored)]
        return [(IGNORED_HEADER, ", ".join(names[:_MOST_NAMES]).encode())]

    def of(self, finished: Finished) -> dict[str, Any]:
        """The field `corral` of an answer; empty if there is nothing to say."""
        told: dict[str, Any] = {
            "ignored": list(dict.fromkeys(self._ignored))[:_MOST_NAMES],
            "warnings": list(finished.warnings),
            "dropped_messages": finished.dropped_messages,
            "dropped_tokens": finished.dropped_tokens,
            "format_problem": finished.format_problem,
        }
        return {name: value for name, value in told.items() if value}


def unused_fields(value: Any, known: Fields | ByType, path: str) -> dict[str, None]:
    """The paths of what a client has sent in `value`, or in the items of a list, beyond the fields `known`, in order.

    `path` is that of `value`. What is null or empty asks for nothing. After as many as are told, the rest is left out.
    """
    found: dict[str, None] = {}
    _look(value, known, path, found)
    return found


def _look(value: Any, known: Fields | ByType, path: str, found: dict[str, None]) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _look(item, known, path, found)
    if not isinstance(value, dict):
        return
    if isinstance(known, ByType):
        kind = value.get("type", known.default)
        if not isinstance(kind, str) or kind not in known.fields:
            return
        known = known.fields[kind]
    for name, item in value.items():
        if name not in known:
            if item is not None and item != [] and item != {} and len(found) < _MOST_NAMES:
                found[f"{path}.{name}"] = None
        elif (inner := known[name]) is not None:
            _look(item, inner, f"{path}.{name}", found)
