"""Writes values as JSON like Go's ``encoding/json``: keys sorted, ``<``, ``>`` and ``&`` escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from typing import Any

from corral.adapters.templates.go.floats import json_number
from corral.adapters.templates.go.formatting import bytes_of
from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.strings import valid_text
from corral.adapters.templates.go.values import GoMap, GoPointer, GoSlice, GoStruct, unboxed
from corral.core.requests.typed_text import unmarked

__all__ = ("json_text",)

_DEEPEST = 200
_ESCAPES = {
    ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t",
    **{code: f"\\u{code:04x}" for code in (*range(32), *map(ord, "<>&\u2028\u2029")) if code not in (8, 9, 10, 12, 13)},
}  # fmt: skip


def json_text(value: Any, limits: Limits) -> str:
    """The value as JSON, without marks; empty if it cannot be written, as where Ollama ignores the error."""
    pieces: list[str] = []
    try:
        _write(value, pieces, limits, 0)
    except ValueError:
        return ""
    return "".join(pieces)


def _write(value: Any, pieces: list[str], limits: Limits, depth: int) -> None:
    limits.step()
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    value = unboxed(value)
    shown = getattr(value, "shown_in_json", None)
    if shown is not None:
        value = shown()
    match value:
        case None:
            pieces.append("null")
        case bool():
            pieces.append("true" if value else "false")
        case int():
            pieces.append(str(int(value)))
        case float():
            if not math.isfinite(value):
                raise ValueError("no number in JSON")
            pieces.append(json_number(value))
        case str():
            pieces.append(_string(value, limits))
        case GoSlice():
            _write_list(value, pieces, limits, depth)
        case GoMap():
            if value.is_nil:
                pieces.append("null")
            else:
                _write_object(value.sorted(), pieces, limits, depth)
        case GoStruct():
            fields = ((value.json_names.get(name, name), name, field) for name, field in value.fields.items())
            kept = ((shown, field) for shown, name, field in fields if name not in value.omitted or not _empty(field))
            _write_object(kept, pieces, limits, depth)
        case GoPointer():
            _write(value.to, pieces, limits, depth + 1)
        case _:
            raise ValueError("a type that JSON does not have")


def _write_list(value: GoSlice, pieces: list[str], limits: Limits, depth: int) -> None:
    data = bytes_of(value)
    if value.is_nil:
        pieces.append("null")
    elif data is not None:
        limits.text(2 * len(data))
        pieces.append(f'"{base64.b64encode(data).decode()}"')
    else:
        pieces.append("[")
        for number, item in enumerate(value.items):
            if number:
                pieces.append(",")
            _write(item, pieces, limits, depth + 1)
        pieces.append("]")


def _write_object(entries: Iterable[tuple[str, Any]], pieces: list[str], limits: Limits, depth: int) -> None:
    pieces.append("{")
    for number, (key, item) in enumerate(entries):
        if number:
            pieces.append(",")
        pieces += (_string(key, limits), ":")
        _write(item, pieces, limits, depth + 1)
    pieces.append("}")


def _string(text: str, limits: Limits) -> str:
    limits.text(2 * len(text))
    return '"' + valid_text(unmarked(text).translate(_ESCAPES), "\\ufffd") + '"'


def _empty(value: Any) -> bool:
    """What ``omitempty`` leaves out."""
    match unboxed(value):
        case GoSlice() as found:
            return not found.items
        case GoMap() as found:
            return not found.entries
        case GoPointer() as found:
            return found.to is None
        case GoStruct():
            return False
        case plain:
            return not plain
