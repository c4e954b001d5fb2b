"""Grammars of arguments that are written between tags, with texts as they are and all other values as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from corral.adapters.answer_parsers.typed_values import schema_types
from corral.core.requests.call_grammars import json_text, literal
from corral.core.requests.messages import Tool

__all__ = ("TaggedArguments",)


class TaggedArguments:
    """The rules of one grammar: `before` makes what stands before the value of an argument, in the grammar's terms.

    `closing` is the tag after it, and `around` the white space that the model writes inside the tags.
    """

    def __init__(self, before: Callable[[str], str], closing: str, *, around: str = "") -> None:
        self._before = before
        self._closing = closing
        self._around = around

    def text(self) -> str:
        """The rule for texts, which `arguments` refers to: up to the first closing tag, and with it."""
        return f"text[lazy]: CHARS {literal(self._closing)}\nCHARS: /(.|\\n)*/"

    def arguments(self, tool: Tool) -> str:
        """All arguments of a tool, in the order of its schema; those that are not required may be missing."""
        properties = tool.parameters.get("properties")
        required = tool.parameters.get("required")
        parts = []
        for name, schema in (properties if isinstance(properties, Mapping) else {}).items():
            part = f'{self._before(name)} {self._value(schema, tool)} "\\n"'
            parts.append(part if isinstance(required, list) and name in required else f"({part})?")
        return " ".join(parts)

    def _value(self, schema: Any, tool: Tool) -> str:
        around, after = literal(self._around) if self._around else "", literal(self._around + self._closing)
        values = None
        if isinstance(schema, Mapping):
            values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list) and values:
            spelled = (value if isinstance(value, str) else json.dumps(value) for value in values)
            choices = " | ".join(literal(value) if value else '""' for value in spelled)
            return f"{around} ({choices}) {after}"
        types = schema_types(schema, tool)
        if "string" in types or not types or not isinstance(schema, Mapping):
            return f"{around} text"
        shared = {key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters}
        return f"{around} {json_text({**shared, **schema})} {after}"
