"""Turns a caller's JSON Schema into a grammar: objects have only the keys they list, and numbers are exact.

According to JSON Schema, an object may have any key besides those it describes. Callers who want an answer from a model
do not mean that: without `additionalProperties`, an object that describes keys has only these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from corral.adapters.constraints.schema_alternatives import with_separate_alternatives
from corral.adapters.constraints.schema_bounds import bound_texts
from corral.adapters.constraints.schema_numbers import COUNTS, NUMBERS, ExactNumbers, bound_integers
from corral.adapters.constraints.schema_recursion import is_endless

__all__ = ("closed_schema", "enforceable_schema", "json_schema_grammar")

_MAX_PATTERN_PROPERTIES = 16
"""All patterns for names are compared with each other."""

_JSON_OPTIONS: Mapping[str, Any] = {
    # On one line: with freedom in whitespace, small models lose their way, and spend half of the tokens on it.
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    # Anything not implemented is reported as a warning.
    "lenient": True,
}

_MAX_LISTED = 20_000

_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMAS = ("additionalProperties", "items", "additionalItems", "contains", "unevaluatedItems", "unevaluatedProperties")
_SCHEMA_LISTS = ("prefixItems", "items")
_CHOICES = ("anyOf", "oneOf")
_OF_OTHER_TYPES = frozenset(
    {"type", "enum", "const", "$ref", "not", "pattern", "format", "contains", *_CHOICES, *NUMBERS, *COUNTS[:4]}
    | {"items", "prefixItems", "allOf", "if", "$dynamicRef", "$recursiveRef"}
)


def json_schema_grammar(source: str, *, bounded: bool = True) -> str:
    """A Lark grammar of the JSON texts that fit the schema. Raises `ValueError` if it cannot be used."""
    schema = json.loads(source)
    if not isinstance(schema, dict):
        raise ValueError("a JSON object is expected")
    return f"start: %json {json.dumps(enforceable_schema(schema, bounded=bounded))}"


def enforceable_schema(schema: dict[str, Any], *, bounded: bool = True) -> dict[str, Any]:
    """The schema for llguidance to compile instead of a caller's. Raises `ValueError` if it cannot be used.

    Unless `bounded` is false, texts with a pattern or a format end somewhere, as `schema_bounds.py` says.
    """
    patterns = _pattern_properties(schema)
    if patterns > _MAX_PATTERN_PROPERTIES:
        raise ValueError(f"it has {patterns} patternProperties; at most {_MAX_PATTERN_PROPERTIES} are accepted")
    if is_endless(schema):
        raise ValueError("no text can satisfy it: what it requires goes on without end")
    closed = closed_schema(with_separate_alternatives(schema))
    if bounded:
        bound_texts(closed)
    # Its own options for llguidance, which could allow invalid JSON, are replaced.
    return {**closed, "x-guidance": _JSON_OPTIONS}


def _pattern_properties(schema: Any) -> int:
    count, waiting = 0, [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            patterns = value.get("patternProperties")
            count += len(patterns) if isinstance(patterns, dict) else 0
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return count


def closed_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema to compile instead of `schema`, which is not changed. The order of keys is kept.

    Objects that are described in several places (`allOf`, a `$ref` beside `properties`, …) may have the keys of all
    of these. Raises `ValueError` for a number that cannot be enforced exactly, and for nesting that is too deep.
    """
    try:
        return _Closing(schema).whole()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Listed:
    """What a schema and all others for the same object list: keys, patterns, and whether further keys are requested."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.patterns: dict[str, None] = {}
        self.required: dict[str, None] = {}
        self.open = False

    def add(self, other: _Listed) -> None:
        self.names |= other.names
        self.patterns |= other.patterns
        self.required |= other.required
        self.open |= other.open

    @property
    def anything(self) -> bool:
        return bool(self.names or self.patterns)


class _Closing:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._listed: dict[str, _Listed] = {}
        self._opened: dict[str, str] = {}
        self._open_definitions: dict[str, Any] = {}
        self._numbers = ExactNumbers()
        self._rewritten_schemas: list[dict[str, Any]] = []
        self._merges = False
        self._listed_in_all = 0

    def whole(self) -> dict[str, Any]:
        made = self._schema(self._root, closed=True)
        if self._open_definitions:
            definitions = made.get("$defs")
            made["$defs"] = {**(definitions if isinstance(definitions, dict) else {}), **self._open_definitions}
        if self._numbers.check_multiples(at_once=self._merges):
            for each in self._rewritten_schemas:
                bound_integers(each)
        return dict(made)

    # ── one schema ────────────────────────────────────────────────────────────────────────────────────────────────

    def _schema(self, schema: Any, *, closed: bool) -> Any:
        """Rewrite `schema`. If not `closed`, another schema for the same object lists its keys."""
        if not isinstance(schema, dict):
            return schema
        self._numbers.check(schema)
        parts = [key for key in ("allOf", "$ref", *_CHOICES) if key in schema]
        beside = "properties" in schema or "required" in schema
        combined = bool(parts) and (beside or len(parts) > 1 or parts == ["allOf"])
        made = self._rewritten(schema, closed=closed and not combined)
        self._rewritten_schemas.append(made)
        if not closed:
            made.pop("unevaluatedProperties", None)
        elif combined:
            self._merges = True
            self._close_combination(schema, made)
        elif "properties" in schema:
            self._close(schema, made)
        return made

    def _rewritten(self, schema: dict[str, Any], *, closed: bool) -> dict[str, Any]:
        """Return a copy with all inner schemas rewritten: those for the same object according to `closed`, all others
        closed.
        """
        made: dict[str, Any] = {}
        for key, value in schema.items():
            if key == "$ref" and not closed:
                made[key] = self._open_reference(value)
            elif key in ("allOf", *_CHOICES) and isinstance(value, list):
                made[key] = [self._schema(item, closed=closed) for item in value]
            elif key in _SCHEMA_MAPS and isinstance(value, dict):
                made[key] = {name: self._schema(item, closed=True) for name, item in value.items()}
            elif key in _SCHEMA_LISTS and isinstance(value, list):
                made[key] = [self._schema(item, closed=True) for item in value]
            elif key in _SCHEMAS:
                made[key] = self._schema(value, closed=True)
            elif key in COUNTS and isinstance(value, float) and value.is_integer():
                made[key] = int(value)  # 2.0 is a whole number to JSON Schema
            else:
                made[key] = value
        return made

    def _close(self, schema: dict[str, Any], made: dict[str, Any]) -> None:
        """Close an object that is described in one place."""
        others = made.pop("unevaluatedProperties", False)
        if "additionalProperties" not in made:
            made["additionalProperties"] = others
        if isinstance(made["properties"], dict) and made["additionalProperties"] is False:
            patterns = made.get("patternProperties") or {}
            for name in _required(schema) if not patterns else ():  # a required key is allowed
                made["properties"].setdefault(name, True)
        if _OF_OTHER_TYPES.isdisjoint(schema):
            made["type"] = "object"

    def _close_combination(self, schema: dict[str, Any], made: dict[str, Any]) -> None:
        """Close an object that is described in several places: each stays open, and all together are closed."""
        said = "additionalProperties" in schema
        others = made.pop("unevaluatedProperties", False)
        choices = [key for key in _CHOICES if isinstance(made.get(key), list)]
        base = self._keys_of({key: value for key, value in schema.items() if key not in _CHOICES})
        whole = self._keys_of(schema)
        if said or not whole.anything or whole.open:
            return
        if len(choices) == 1:
            [key] = choices
            made[key] = [
                self._closed_over(made[key][number], base, self._keys_of(alternative), others)
                for number, alternative in enumerate(schema[key])
            ]
        else:
            parts = made.get("allOf")
            made["allOf"] = [*(parts if isinstance(parts, list) else ()), self._only(whole, others)]

    def _closed_over(self, made: Any, base: _Listed, own: _Listed, others: Any) -> Any:
        listed = _Listed()
        listed.add(base)
        listed.add(own)
        return {"allOf": [made, self._only(listed, others)]} if listed.anything else made

    def _only(self, listed: _Listed, others: Any) -> dict[str, Any]:
        names = listed.names | listed.required  # a required key is allowed
        self._listed_in_all += len(names) + len(listed.patterns)
        if self._listed_in_all > _MAX_LISTED:
            raise ValueError(f"its combinations list more than {_MAX_LISTED} keys in total")
        made: dict[str, Any] = {"properties": dict.fromkeys(names, True), "additionalProperties": others}
        if listed.patterns:
            made["patternProperties"] = dict.fromkeys(listed.patterns, True)
        return made

    # ── what a schema lists ───────────────────────────────────────────────────────────────────────────────────────

    def _keys_of(self, schema: Any) -> _Listed:
        listed = _Listed()
        if not isinstance(schema, dict):
            return listed
        for key, found in (("properties", listed.names), ("patternProperties", listed.patterns)):
            described = schema.get(key)
            if isinstance(described, dict):
                found.update(dict.fromkeys(described))
        listed.required.update(dict.fromkeys(_required(schema)))
        listed.open = schema.get("additionalProperties", False) is not False
        if isinstance(schema.get("$ref"), str):
            listed.add(self._keys_at(schema["$ref"]))
        for key in ("allOf", *_CHOICES):
            parts = schema.get(key)
            for part in parts if isinstance(parts, list) else ():
                listed.add(self._keys_of(part))
        return listed

    def _keys_at(self, reference: str) -> _Listed:
        if reference not in self._listed:
            self._listed[reference] = _Listed()  # a recursive one adds nothing more
            self._listed[reference] = self._keys_of(self._target(reference))
        return self._listed[reference]

    # ── references ────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_reference(self, reference: Any) -> Any:
        """Return a reference to an open copy of the definition: in a combination, it is closed with the others."""
        if not isinstance(reference, str):
            return reference
        target = self._target(reference)
        if not isinstance(target, dict):
            return reference
        name = self._opened.get(reference)
        if name is None:
            name = self._opened[reference] = f"{len(self._opened)} of a combination"
            self._open_definitions[name] = None  # a placeholder, in case it is recursive
            self._open_definitions[name] = self._schema(target, closed=False)
        return f"#/$defs/{name.replace(' ', '%20')}"

    def _target(self, reference: str) -> Any:
        """Return the target of a reference within the schema; None for any other reference."""
        if reference == "#":
            return self._root
        if not reference.startswith("#/"):
            return None
        value: Any = self._root
        for step in unquote(reference[2:]).split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and key.isdecimal() and len(key) < 6:
                value = value[int(key)] if int(key) < len(value) else None
            else:
                value = value.get(key) if isinstance(value, dict) else None
        return value


def _required(schema: Mapping[str, Any]) -> list[str]:
    names = schema.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
