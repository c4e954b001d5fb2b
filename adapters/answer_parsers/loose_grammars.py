"""Grammars of the values that `LooseValues` reads: what of a JSON Schema such a notation can express."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from corral.core.requests.call_grammars import literal
from corral.core.requests.messages import Tool
from corral.core.values import Value

__all__ = ("LooseNotation", "LooseRules")

_MOST_LEVELS = 8
"""Deeper values may be anything."""


class LooseNotation(Value, frozen=True, kw_only=True):
    """How values are written.

    `words` are for true, false and null; `sign` stands after the names of arguments, `inner_sign` after those in
    objects, which have quotes if `quoted_names`. Texts are between two `raw` marks, or written like Python's.
    """

    words: tuple[str, str, str]
    sign: str
    inner_sign: str
    separator: str
    quoted_names: bool
    raw: str | None = None


class LooseRules:
    """The rules of one grammar. Of schemas, types, properties, items, enum and const are enforced."""

    def __init__(self, notation: LooseNotation) -> None:
        self._notation = notation
        self._separator = literal(notation.separator)
        self._rules: list[str] = []

    def arguments(self, tool: Tool) -> str:
        """The rule of a tool's arguments, without the brackets around them."""
        return self._properties(tool.parameters, tool.parameters, self._notation.sign, quoted=False, level=0)

    def text(self) -> str:
        """All rules."""
        raw = self._notation.raw
        text = 'text: /"([^"\\\\\\n]|\\\\["\\\\nt])*"/'
        if raw is not None:
            # Whatever may be in a text: not its mark, which begins with "<".
            text = f"text: {literal(raw)} CHARS? {literal(raw)}\nCHARS: /[^<]+/"
        name = "text" if self._notation.quoted_names else "/[A-Za-z_][A-Za-z0-9_]*/"
        pair = f"{name} {literal(self._notation.inner_sign)} value"
        true, false, null = map(literal, self._notation.words)
        general = (
            text,
            "integer: /-?(0|[1-9][0-9]{0,15})/",
            "number: /-?(0|[1-9][0-9]{0,15})(\\.[0-9]{1,16})?/",
            f"boolean: {true} | {false}",
            f"null: {null}",
            f'list: "[" (value ({self._separator} value)*)? "]"',
            f'object: "{{" ({pair} ({self._separator} {pair})*)? "}}"',
            "value: text | number | boolean | null | list | object",
        )
        return "\n".join((*general, *self._rules))

    def _rule(self, body: str) -> str:
        name = f"part_{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _properties(self, schema: Any, root: Mapping[str, Any], sign: str, *, quoted: bool, level: int) -> str:
        """Names and values in the schema's order; those that are not required may be missing."""
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        required = schema.get("required") if isinstance(schema, Mapping) else None
        names = frozenset(map(str, required)) if isinstance(required, list) else frozenset()
        # Built from the last to the first: what may come first, and what may follow another.
        first = following = self._rule('""')
        for name, part in reversed([*properties.items()] if isinstance(properties, Mapping) else []):
            begun = self._written(name) if quoted else literal(name)
            pair = self._rule(f"{begun} {literal(sign)} {self._value(part, root, level + 1)}")
            if name in names:
                first = self._rule(f"{pair} {following}")
                following = self._rule(f"{self._separator} {pair} {following}")
            else:
                first = self._rule(f"{pair} {following} | {first}")
                following = self._rule(f"({self._separator} {pair})? {following}")
        return first

    def _value(self, schema: Any, root: Mapping[str, Any], level: int) -> str:
        if not isinstance(schema, Mapping) or level > _MOST_LEVELS:
            return "value"
        if isinstance(schema.get("$ref"), str):
            name = schema["$ref"].rpartition("/")[2]
            schemas = root.get("$defs", root.get("definitions"))
            return self._value(schemas.get(name) if isinstance(schemas, Mapping) else None, root, level + 1)
        if "const" in schema:
            return self._written(schema["const"])
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return f"({' | '.join(map(self._written, schema['enum']))})"
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list) and schema[key]:
                return f"({' | '.join(self._value(one, root, level + 1) for one in schema[key])})"
        named = schema.get("type")
        if isinstance(named, list) and named:
            return f"({' | '.join(self._value({**schema, 'type': one}, root, level + 1) for one in named)})"
        if named == "array" and "items" in schema:
            item = self._value(schema["items"], root, level + 1)
            return self._rule(f'"[" ({item} ({self._separator} {item})*)? "]"')
        if named == "object" and schema.get("properties"):
            notation = self._notation
            inner = self._properties(schema, root, notation.inner_sign, quoted=notation.quoted_names, level=level)
            return self._rule(f'"{{" {inner} "}}"')
        known = {"string": "text", "array": "list"} | {
            one: one for one in ("integer", "number", "boolean", "null", "object")
        }
        return known.get(named, "value") if isinstance(named, str) else "value"

    def _written(self, value: Any) -> str:
        """A value as the grammar's text."""
        words, raw = self._notation.words, self._notation.raw
        if isinstance(value, bool) or value is None:
            return literal(words[2 if value is None else 0 if value else 1])
        if isinstance(value, str) and raw is not None:
            return " ".join(map(literal, filter(None, (raw, value, raw))))
        return literal(json.dumps(value, ensure_ascii=False))
