"""Random JSON Schemas for property tests: each can be satisfied, and the same seed gives the same schema."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

__all__ = ("random_schema",)

Schema = dict[str, Any]

_NAMES = ("name", "age", "color", "size", "tags", "owner", "date", "id", "note", "unit", "price", "ok")
_WORDS = ("red", "green", "blue", "a b", 'say "hi"', "größe", "\\", "")
_PATTERNS = (
    "^[a-z]+$",
    "^[A-Z]{2,4}-[0-9]{1,3}$",
    "^(red|green|blue)$",
    r"^\d{3}$",
    r"^\w{1,8}$",
    "^.{2,5}$",
    "cat|dog",
    "^x",
    "y$",
    "^[^aeiou ]{1,6}$",
    r"^[0-9]{4}-(0[1-9]|1[0-2])$",
    r"^#[0-9a-fA-F]{6}$",
    "^(ab)*$",
    r"^\S+@\S+$",
)
_FORMATS = ("date-time", "date", "time", "uuid", "email")
_VALUES: tuple[Any, ...] = (None, True, False, 0, 1, -7, 2.5, "red", "x y", [], [1, "a"], {"k": 1}, {})


def random_schema(seed: int) -> Schema:
    """A schema of a few levels that some JSON text fits."""
    return _Drawing(random.Random(seed)).whole()


class _Drawing:
    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def whole(self) -> Schema:
        kinds = [self._object, self._object, self._object, self._array, self._tuple, self._any_of, self._one_of]
        kinds += [self._all_of, self._tree, self._list, self._leaf]
        return self._draw.choice(kinds)(3)

    def _schema(self, depth: int) -> Schema:
        if depth <= 0 or self._draw.random() < 0.45:
            return self._leaf(0)
        kinds = [self._object, self._array, self._tuple, self._any_of, self._one_of, self._all_of]
        return self._draw.choice(kinds)(depth)

    def _leaf(self, depth: int) -> Schema:
        kinds: list[Callable[[], Schema]] = [
            self._string, self._string, self._number, self._integer, self._format, self._enum, self._const,
            lambda: {"type": "boolean"}, lambda: {"type": "null"},
        ]  # fmt: skip
        return self._draw.choice(kinds)()

    # ── leaves ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _string(self) -> Schema:
        schema: Schema = {"type": "string"}
        kind = self._draw.randrange(4)
        if kind in (1, 2):
            least = self._draw.randrange(6)
            schema |= {"minLength": least} if self._draw.random() < 0.5 else {}
            schema |= {"maxLength": least + self._draw.randrange(1, 30)}
        elif kind == 3:
            schema["pattern"] = self._draw.choice(_PATTERNS)
        return schema

    def _format(self) -> Schema:
        return {"type": "string", "format": self._draw.choice(_FORMATS)}

    def _integer(self) -> Schema:
        schema: Schema = {"type": "integer"}
        low = self._draw.randrange(-50, 100)
        if self._draw.random() < 0.6:
            schema[self._draw.choice(["minimum", "exclusiveMinimum"])] = low
        if self._draw.random() < 0.6:
            schema[self._draw.choice(["maximum", "exclusiveMaximum"])] = low + self._draw.randrange(20, 2000)
        if self._draw.random() < 0.2:
            schema["multipleOf"] = self._draw.choice([2, 5, 10])
        return schema

    def _number(self) -> Schema:
        schema: Schema = {"type": "number"}
        low = round(self._draw.uniform(-20, 20), self._draw.randrange(3))
        if self._draw.random() < 0.6:
            schema[self._draw.choice(["minimum", "exclusiveMinimum"])] = low
        if self._draw.random() < 0.6:
            schema[self._draw.choice(["maximum", "exclusiveMaximum"])] = low + self._draw.randrange(1, 500)
        if self._draw.random() < 0.15:
            schema["multipleOf"] = self._draw.choice([0.5, 0.25, 1])
        return schema

    def _enum(self) -> Schema:
        return {"enum": self._draw.sample([*_VALUES, *_WORDS], self._draw.randrange(1, 6))}

    def _const(self) -> Schema:
        return {"const": self._draw.choice([*_VALUES, *_WORDS])}

    # ── containers ────────────────────────────────────────────────────────────────────────────────────────────────

    def _object(self, depth: int, names: tuple[str, ...] = _NAMES) -> Schema:
        chosen = self._draw.sample(names, min(len(names), self._draw.randrange(1, 5)))
        schema: Schema = {
            "type": "object",
            "properties": {name: self._schema(depth - 1) for name in chosen},
            "required": [name for name in chosen if self._draw.random() < 0.6],
        }
        others = self._draw.random()
        if others < 0.3:
            schema["additionalProperties"] = False
        elif others < 0.4:
            schema["additionalProperties"] = self._leaf(0)
        elif others < 0.45:
            schema["additionalProperties"] = True
        if self._draw.random() < 0.1:
            del schema["required"]
        return schema

    def _array(self, depth: int) -> Schema:
        schema: Schema = {"type": "array", "items": self._schema(depth - 1)}
        least = self._draw.randrange(3)
        if self._draw.random() < 0.5:
            schema["minItems"] = least
        if self._draw.random() < 0.5:
            schema["maxItems"] = least + self._draw.randrange(1, 5)
        return schema

    def _tuple(self, depth: int) -> Schema:
        items = [self._schema(depth - 1) for _ in range(self._draw.randrange(1, 4))]
        schema: Schema = {"type": "array", "prefixItems": items}
        if self._draw.random() < 0.7:
            schema["items"] = self._draw.choice([False, False, self._leaf(0)])
        if self._draw.random() < 0.6:
            schema["minItems"] = len(items)
        return schema

    # ── combinations ──────────────────────────────────────────────────────────────────────────────────────────────

    def _any_of(self, depth: int) -> Schema:
        return {"anyOf": [self._schema(depth - 1) for _ in range(self._draw.randrange(2, 4))]}

    def _one_of(self, depth: int) -> Schema:
        kind = self._draw.randrange(4)
        if kind == 0:  # told apart by type
            return {"oneOf": [self._object(depth - 1), self._string(), {"type": "null"}]}
        if kind == 1:  # told apart by a constant
            alternatives = []
            for word in self._draw.sample(["cat", "dog", "horse"], 2):
                one = self._object(depth - 1)
                one["properties"] = {"kind": {"const": word}} | one["properties"]
                one["required"] = ["kind", *one.get("required", ())]
                alternatives.append(one)
            return {"oneOf": alternatives}
        if kind == 2:  # ranges that overlap
            return {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 20}, {"type": "integer", "minimum": 10}]}
        return {"oneOf": [self._schema(depth - 1), {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}]}

    def _all_of(self, depth: int) -> Schema:
        kind = self._draw.randrange(3)
        if kind == 0:
            half = len(_NAMES) // 2
            parts = [self._object(depth - 1, _NAMES[:half]), self._object(depth - 1, _NAMES[half:])]
            for part in parts:
                part.pop("additionalProperties", None)
            return {"allOf": parts}
        if kind == 1:
            return {"allOf": [{"type": "integer"}, {"minimum": self._draw.randrange(50)}, {"maximum": 90}]}
        return {"allOf": [{"type": "string", "minLength": 3}, {"maxLength": 12}, {"pattern": "^[a-z]*$"}]}

    def _tree(self, depth: int) -> Schema:
        node: Schema = {
            "type": "object",
            "properties": {"value": self._leaf(0), "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["value", "children"][: self._draw.randrange(1, 3)],
        }
        if self._draw.random() < 0.5:
            node["properties"]["children"]["maxItems"] = 3
        return {"$defs": {"node": node}, "$ref": "#/$defs/node"}

    def _list(self, depth: int) -> Schema:
        link = {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "null"}]}
        link_object: Schema = {"type": "object", "properties": {"item": self._leaf(0), "next": link}}
        link_object["required"] = ["item", "next"]
        return {
            "$defs": {"link": link_object},
            "type": "object",
            "properties": {"first": {"$ref": "#/$defs/link"}},
            "required": ["first"],
        }
