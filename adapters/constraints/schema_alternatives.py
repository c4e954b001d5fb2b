"""Restricts the alternatives of a `oneOf` until no value fits two of them, so that any of them may then be taken.

llguidance can only choose among alternatives, not forbid what fits another one. A restriction never allows more than
the schema does; alternatives that cannot be told apart are left out, unless none would remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from corral.adapters.constraints.schema_walk import resolved

__all__ = ("with_separate_alternatives",)

Schema = Mapping[str, Any]

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_MOST_ALTERNATIVES = 32
_DEEPEST = 6
_MOST_STEPS = 10_000
"""Comparisons for one whole schema; alternatives that come later stay as they are."""
_STEPS_A_CHECK = 4
"""What preparing the check of values counts."""
_DISTINCT_FORMATS = frozenset({"date-time", "date", "time", "uuid", "email", "ipv4", "ipv6"})


def with_separate_alternatives(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every `oneOf` in it turned into an `anyOf` if its alternatives can be told apart."""
    made: dict[str, Any] = _Separating(schema).rewritten(schema)
    return made


class _Base:
    """What is said beside alternatives: the types of values, and the names that objects have."""

    def __init__(self, types: frozenset[str] = frozenset(_TYPES), required: frozenset[str] = frozenset()) -> None:
        self.types, self.required = types, required

    def also(self, schema: Schema) -> _Base:
        return _Base(self.types & _types(schema), self.required | _names(schema))


class _Separating:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._left = _MOST_STEPS

    def rewritten(self, schema: Any) -> Any:
        """All schemas within; values of `enum` and `const` stay as they are. Recursion is bounded by the nesting."""
        if isinstance(schema, list):
            return [self.rewritten(one) for one in schema]
        if not isinstance(schema, dict):
            return schema
        made = {key: value if key in ("enum", "const") else self.rewritten(value) for key, value in schema.items()}
        alternatives = made.get("oneOf")
        if isinstance(alternatives, list) and 1 < len(alternatives) <= _MOST_ALTERNATIVES and "anyOf" not in made:
            base = _Base().also(made)
            separate = [self._from_all(one, place, alternatives, base) for place, one in enumerate(alternatives)]
            if kept := [one for one in separate if one is not None]:
                made = {("anyOf" if key == "oneOf" else key): value for key, value in made.items()} | {"anyOf": kept}
        return made

    def _from_all(self, schema: Any, place: int, alternatives: Sequence[Any], base: _Base) -> Any:
        for number, other in enumerate(alternatives):
            if number != place and schema is not None:
                schema = self._from(schema, other, base, _DEEPEST)
        return schema

    def _from(self, schema: Any, other: Any, base: _Base, depth: int) -> Any:
        """`schema`, restricted to values that do not fit `other`; None if that cannot be expressed.

        `base` is what values are anyway.
        """
        if schema is False or other is False:
            return schema
        self._left -= 1
        if not isinstance(schema, dict) or not isinstance(other, dict) or depth == 0 or self._left < 0:
            return None
        if isinstance(schema.get("$ref"), str):
            target = self._target(schema["$ref"]) if len(schema) == 1 else None
            return None if target is None else self._from(target, other, base, depth - 1)
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                kept = [
                    one
                    for each in schema[key]
                    if (one := self._from(each, other, base.also(schema), depth - 1)) is not None
                ]
                return {**schema, key: kept} if kept else None
        return self._from_parts(schema, other, base, depth)

    def _from_parts(self, schema: Schema, other: Schema, base: _Base, depth: int) -> Any:
        """Values do not fit `other` if they do not fit one of the things that it demands."""
        if isinstance(other.get("$ref"), str):
            target = self._target(other["$ref"])
            if target is not None and (made := self._from(schema, target, base, depth - 1)) is not None:
                return made
        for part in other.get("allOf", ()) if isinstance(other.get("allOf"), list) else ():
            if (made := self._from(schema, part, base, depth - 1)) is not None:
                return made
        for key in ("anyOf", "oneOf"):
            if isinstance(other.get(key), list):
                made = schema
                for part in other[key]:
                    made = None if made is None else self._from(made, part, base, depth - 1)
                if made is not None:
                    return made
        if _values(schema) is not None:
            return self._from_values(schema, other)
        return self._by_type(schema, other, base, depth)

    def _from_values(self, schema: Schema, other: Schema) -> Any:
        from corral.adapters.constraints.schema_checks import fitting

        values = _values(schema) or []
        self._left -= _STEPS_A_CHECK + len(values)
        if self._left < 0:
            return None
        fit = {id(value) for value in fitting(dict(other), values)}
        kept = [value for value in values if id(value) not in fit]
        if len(kept) == len(values):
            return schema
        return {key: value for key, value in schema.items() if key != "const"} | {"enum": kept} if kept else None

    def _by_type(self, schema: Schema, other: Schema, base: _Base, depth: int) -> Any:
        mine, theirs = _types(schema) & base.types, _types(other)
        apart = [kind for kind in mine if kind not in theirs and not (kind == "integer" and "number" in theirs)]
        if theirs == {"integer"} and "number" in apart:
            apart.remove("number")
        if apart:
            return schema if len(apart) == len(mine) else {**schema, "type": apart}
        if len(mine) != 1:
            return None
        if (listed := _values(other)) is not None:
            return _without_values(schema, listed)
        [kind] = mine
        by_kind: Mapping[str, Callable[[], Any]] = {
            "object": lambda: self._objects(schema, other, base, depth),
            "array": lambda: self._arrays(schema, other, depth),
            "string": lambda: _strings(schema, other),
            "integer": lambda: _numbers(schema, other),
            "number": lambda: _numbers(schema, other),
        }
        return by_kind[kind]() if kind in by_kind else None

    def _objects(self, schema: Schema, other: Schema, base: _Base, depth: int) -> Any:
        properties, others = _properties(schema), _properties(other)
        missing = sorted(_names(other) - _names(schema) - base.required)
        for name in missing:
            if name not in properties:
                return {**schema, "properties": {**properties, name: False}}
        for name in sorted(properties.keys() & others.keys(), key=lambda name: "const" not in _dict(properties[name])):
            apart = self._from(properties[name], others[name], _Base(), depth - 1)
            if apart is not None and apart is not False:
                return _requiring(schema, name, {**properties, name: apart})
        closed = other.get("additionalProperties") is False and not other.get("patternProperties")
        for name in properties if closed else ():
            if name not in others and properties[name] is not False:
                return _requiring(schema, name, properties)
        for name in missing:
            return {**schema, "properties": {**properties, name: False}}
        return None

    def _arrays(self, schema: Schema, other: Schema, depth: int) -> Any:
        counted = _by_length(schema, other, "minItems", "maxItems")
        if counted is not None:
            return counted
        mine, key = _first_item(schema)
        theirs, _ = _first_item(other)
        apart = self._from(mine, theirs, _Base(), depth - 1)
        if apart is None or apart is False or key is None:
            return None
        items = [apart, *schema["prefixItems"][1:]] if key == "prefixItems" else apart
        return {**schema, key: items, "minItems": max(1, _number(schema.get("minItems"), 0))}

    def _target(self, reference: str) -> Any:
        try:
            return resolved(self._root, reference)
        except LookupError:
            return None


def _without_values(schema: Schema, values: Sequence[Any]) -> Any:
    """Texts and lists that are longer than any of the values, numbers that are greater or smaller."""
    texts = [len(value) for value in values if isinstance(value, str)]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if schema.get("type") == "string" and texts and "const" not in schema:
        return _by_length(schema, {"minLength": 0, "maxLength": max(texts)}, "minLength", "maxLength")
    lists = [len(value) for value in values if isinstance(value, list)]
    if schema.get("type") == "array" and lists:
        return _by_length(schema, {"minItems": 0, "maxItems": max(lists)}, "minItems", "maxItems")
    if schema.get("type") in ("integer", "number") and numbers:
        return _numbers(schema, {"minimum": min(numbers), "maximum": max(numbers)})
    return None


def _strings(schema: Schema, other: Schema) -> Any:
    formats = {schema.get("format"), other.get("format")}
    if len(formats) == 2 and formats <= _DISTINCT_FORMATS:
        return schema
    return _by_length(schema, other, "minLength", "maxLength")


def _by_length(schema: Schema, other: Schema, least: str, most: str) -> Any:
    low, high = _number(schema.get(least), 0), schema.get(most)
    other_low, other_high = _number(other.get(least), 0), other.get(most)
    if low < other_low:
        return {**schema, most: min(_number(high, other_low), other_low - 1)}
    if isinstance(other_high, int) and (not isinstance(high, int) or high > other_high):
        return {**schema, least: max(low, other_high + 1)}
    return None


def _numbers(schema: Schema, other: Schema) -> Any:
    """What is below the other's range, or else above it."""
    for least, exclusive, most, exclusive_most in (
        ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
        ("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
    ):
        sign = 1 if least == "minimum" else -1
        bound = _tightest(other, least, exclusive, sign)
        if bound is None:
            continue
        value, open_end = bound
        mine = _tightest(schema, least, exclusive, sign)
        if mine is not None and sign * mine[0] >= sign * value:
            continue
        own = _tightest(schema, most, exclusive_most, -sign)
        if own is not None and sign * own[0] < sign * value:
            return schema
        return {**schema, (most if open_end else exclusive_most): value}
    return None


def _tightest(schema: Schema, bound: str, exclusive: str, sign: int) -> tuple[float, bool] | None:
    """The bound, and whether it is exclusive."""
    found = [(schema[key], key == exclusive) for key in (bound, exclusive) if _is_number(schema.get(key))]
    return max(found, key=lambda one: (sign * one[0], one[1]), default=None)


def _types(schema: Schema) -> set[str]:
    stated = schema.get("type")
    if isinstance(stated, str):
        return {stated}
    if isinstance(stated, list):
        return {kind for kind in stated if isinstance(kind, str)}
    values = _values(schema)
    return set(_TYPES) if values is None else {_type_of(value) for value in values}


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    listed = schema.get("enum")
    return listed if isinstance(listed, list) else None


def _first_item(schema: Schema) -> tuple[Any, str | None]:
    for key in ("prefixItems", "items"):
        value = schema.get(key)
        if key == "prefixItems" and isinstance(value, list) and value:
            return value[0], key
        if key == "items" and isinstance(value, dict):
            return value, key
    return None, None


def _requiring(schema: Schema, name: str, properties: Schema) -> dict[str, Any]:
    names = [one for one in schema.get("required") or () if isinstance(one, str)]
    return {**schema, "properties": dict(properties), "required": [*names, *([] if name in names else [name])]}


def _properties(schema: Schema) -> dict[str, Any]:
    return _dict(schema.get("properties"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(schema: Schema) -> frozenset[str]:
    listed = schema.get("required")
    return frozenset(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else frozenset()


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
