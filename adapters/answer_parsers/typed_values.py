"""Gives values that a model wrote as plain text the types that the tool's JSON Schema asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from corral.adapters.answer_parsers.call_source import CallSource, Step
from corral.adapters.answer_parsers.json_values import decoded
from corral.core.requests.messages import Tool

__all__ = ("parameter_schema", "schema_types", "text_before", "typed_value")

_QUOTE = re.compile(r'\\.|"', re.DOTALL)

_MOST_REFERENCES = 16
_MOST_CHOICES = 64
_MOST_PARTS = 512

_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("null", type(None)),
    ("boolean", bool),
    ("integer", int),
    ("number", (int, float)),
    ("object", dict),
    ("array", list),
)


def typed_value(text: str, schema: Any, tool: Tool) -> Any:
    """The value of a text for a parameter with this schema.

    It is JSON if that fits one of the schema's types, or if the schema names none; otherwise it stays text. Models
    write ``True`` and ``None`` too, and whole numbers as ``1.0``.
    """
    types = schema_types(schema, tool)
    if types == {"string"}:
        return text
    bare = text.strip()
    word = {"True": "true", "False": "false", "None": "null"}.get(bare, bare)
    try:
        value = decoded(word)
    except ValueError:
        return text
    if isinstance(value, float) and value.is_integer() and "integer" in types and "number" not in types:
        return int(value)
    if not types:
        return text if isinstance(value, str) else value
    fits = any(name in types and _is(value, kind) for name, kind in _TYPES)
    return value if fits else text


def text_before(source: CallSource, closing: str, schema: Any, tool: Tool) -> Step[str]:
    """Reads the text of a value up to `closing`, and that. Inside the quotes of JSON, `closing` is part of the text."""
    text, _ = yield from source.until(closing)
    types = schema_types(schema, tool)
    if not types or "string" in types:
        return text
    pieces, quoted = [text], _ends_quoted(text)
    while quoted:
        more, _ = yield from source.until(closing)
        pieces += [closing, more]
        quoted = not _ends_quoted(more)
    return "".join(pieces)


def _ends_quoted(text: str) -> bool:
    return _QUOTE.findall(text).count('"') % 2 == 1


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def parameter_schema(tool: Tool, name: str) -> Any:
    """The schema of one parameter; an empty one if the tool does not describe it."""
    properties = tool.parameters.get("properties")
    return properties.get(name, {}) if isinstance(properties, Mapping) else {}


def schema_types(schema: Any, tool: Tool) -> frozenset[str]:
    """The types that a schema allows, none if it does not say."""
    found: set[str] = set()
    waiting, followed = [schema], 0
    for one in waiting:  # grows while it is read
        if not isinstance(one, Mapping) or followed > _MOST_REFERENCES or len(waiting) > _MOST_PARTS:
            continue
        named = one.get("type")
        found.update([named] if isinstance(named, str) else filter(_is_text, named) if isinstance(named, list) else ())
        values = one["enum"] if isinstance(one.get("enum"), list) else [one["const"]] if "const" in one else []
        if named is None:
            found.update(_type_of(value) for value in values)
        for key in ("anyOf", "oneOf", "allOf"):
            parts = one.get(key)
            waiting.extend(parts[:_MOST_CHOICES] if isinstance(parts, list) else ())
        if isinstance(one.get("$ref"), str):
            followed += 1
            waiting.append(_target(one["$ref"], tool))
    return frozenset(found)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _type_of(value: Any) -> str:
    return next((name for name, kind in _TYPES if _is(value, kind)), "string")


def _target(reference: str, tool: Tool) -> Any:
    """What ``#/$defs/name`` refers to."""
    value: Any = tool.parameters
    for step in reference.removeprefix("#/").split("/"):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
