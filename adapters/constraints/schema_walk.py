"""Counts the work of validating a value against a JSON Schema, in order to refuse what would take too long.

Validators follow references recursively, and apply several subschemas to the same value: a short schema can keep one
busy for years. The count is an upper bound, since no branch is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any
from urllib.parse import unquote

__all__ = ("complaint_about_work", "resolved")

_MOST_STEPS = 50_000
_DEEPEST = 3000
_BYTES_A_STEP = 64

_SAME_VALUE_LISTS = ("allOf", "anyOf", "oneOf")
_SAME_VALUE = ("not", "if", "then", "else")
_EACH_MEMBER = ("additionalProperties", "unevaluatedProperties", "propertyNames")
_EACH_ITEM = ("items", "additionalItems", "unevaluatedItems", "contains")
_ELSEWHERE = ("$dynamicRef", "$recursiveRef")


def complaint_about_work(schema: Any, value: Any, *, each: bool = False) -> str | None:
    """Why the value cannot be validated in bounded time; None if it can. `each`: it is a list of values."""
    waiting = [(schema, one, 0) for one in value] if each else [(schema, value, 0)]
    targets: dict[str, Any] = {}
    steps = 0
    while waiting:
        rule, one, depth = waiting.pop()
        steps += 1
        if not isinstance(rule, dict):
            continue
        steps += _size(rule, one)
        if steps + len(waiting) > _MOST_STEPS or depth > _DEEPEST:  # what waits will take a step each
            return "the schema is too complex to be checked"
        if found := next((key for key in _ELSEWHERE if key in rule), None):
            return f"{found} is not followed"
        if depth and "$id" in rule:
            return "a $id inside the schema is not followed"
        reference = rule.get("$ref")
        if isinstance(reference, str):
            try:
                if reference not in targets:  # following it takes time that grows with its length
                    targets[reference] = resolved(schema, reference)
                waiting.append((targets[reference], one, depth + 1))
            except LookupError:
                return f"the reference {reference[:60]!r} leads out of the schema"
        parts = chain(((inner, one) for inner in _for_same_value(rule)), _for_parts(rule, one))
        waiting += ((inner, part, depth + 1) for inner, part in islice(parts, _MOST_STEPS))
    return None


def resolved(schema: Any, reference: str) -> Any:
    """The target of a reference within `schema`. Raises `LookupError` for any other reference."""
    if reference != "#" and not reference.startswith("#/"):
        raise LookupError(reference)
    value = schema
    for step in unquote(reference[2:]).split("/") if reference != "#" else ():
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and key.isdecimal() and len(key) < 6:
            value = value[int(key)]
        elif isinstance(value, dict):
            value = value[key]
        else:
            raise LookupError(reference)
    return value


def _for_same_value(rule: dict[str, Any]) -> Iterator[Any]:
    for key in _SAME_VALUE_LISTS:
        if isinstance(rule.get(key), list):
            yield from rule[key]
    for key in _SAME_VALUE:
        if key in rule:
            yield rule[key]
    dependent = rule.get("dependentSchemas")
    if isinstance(dependent, dict):
        yield from dependent.values()


def _for_parts(rule: dict[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        named = rule.get("properties")
        if isinstance(named, dict):
            yield from ((named[name], part) for name, part in value.items() if name in named)
        patterns = rule.get("patternProperties")
        if isinstance(patterns, dict):
            yield from ((inner, part) for inner in patterns.values() for part in value.values())
        for key in _EACH_MEMBER:
            if key in rule:
                yield from ((rule[key], part) for part in value.values())
    elif isinstance(value, list):
        for key in _EACH_ITEM:
            if key in rule:
                yield from ((rule[key], part) for part in value)
        for key in ("prefixItems", "items"):
            if isinstance(rule.get(key), list):
                yield from zip(rule[key], value, strict=False)


def _size(rule: dict[str, Any], value: Any) -> int:
    """What comparing or searching the value itself costs."""
    if isinstance(value, str):
        return len(value) // _BYTES_A_STEP
    size = len(value) if isinstance(value, dict | list) else 0
    listed = rule.get("enum")
    return size + (len(listed) if isinstance(listed, list) else 0)
