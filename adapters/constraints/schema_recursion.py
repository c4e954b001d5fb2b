"""Whether a recursive JSON Schema has a finite text at all: one whose every object requires another one does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corral.adapters.constraints.schema_walk import resolved

__all__ = ("is_endless",)

_MOST_STEPS = 100_000
_CHOICES = ("anyOf", "oneOf")


def is_endless(schema: Any) -> bool:
    """Whether every text that fits is endless. False also if that cannot be told: for references out of the schema, for
    keywords that are not followed here, and if it would take too long.
    """
    try:
        return _Recursion(schema).is_endless()
    except _TooLong:
        return False


class _TooLong(Exception):
    pass


class _Recursion:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0
        self._targets: dict[str, Any] = {}
        self._ending: set[str] = set()

    def is_endless(self) -> bool:
        """What ends without a reference is known first, and then what ends with references to that, and so on."""
        while not self._ends(self._root):
            known = len(self._ending), len(self._targets)
            for reference, target in list(self._targets.items()):
                if reference not in self._ending and self._ends(target):
                    self._ending.add(reference)
            if known == (len(self._ending), len(self._targets)):
                return True
        return False

    def _ends(self, schema: Any) -> bool:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise _TooLong
        if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
            return True
        needed = [self._ends(part) for part in _needed(schema)]  # all are looked at, to find their references
        for key in _CHOICES:
            choices = schema.get(key)
            if isinstance(choices, list) and choices:
                ends = [self._ends(choice) for choice in choices]
                needed.append(any(ends))
        return all(needed) and self._reference_ends(schema.get("$ref"))

    def _reference_ends(self, reference: Any) -> bool:
        if not isinstance(reference, str) or reference in self._ending:
            return True
        if reference not in self._targets:
            try:
                self._targets[reference] = resolved(self._root, reference)
            except LookupError:
                return True
        return False


def _needed(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas that have a text in every text of this one."""
    if isinstance(parts := schema.get("allOf"), list):
        yield from parts
    kind = schema.get("type")
    if kind in ("object", ["object"]):
        properties, required = schema.get("properties"), schema.get("required")
        if isinstance(properties, dict) and isinstance(required, list):
            yield from (properties[name] for name in required if isinstance(name, str) and name in properties)
    elif kind in ("array", ["array"]):
        least = schema.get("minItems")
        if isinstance(least, int):
            first = schema.get("prefixItems")
            first = first if isinstance(first, list) else []
            yield from first[:least]
            if least > len(first):
                yield schema.get("items")
