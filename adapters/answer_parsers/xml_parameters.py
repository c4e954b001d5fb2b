"""Grammars of arguments that are written between tags, with texts as they are and all other values as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from corral.adapters.answer_parsers.typed_values import schema_types
from corral.core.requests.call_grammars import json_text, literal, spelled
from corral.core.requests.messages import Tool

__all__ = ("TaggedArguments",)


class TaggedArguments:
    """The rules of one grammar: `before` makes what stands before the value of an argument, as a part of a rule, from
    its name and whether it is a text.

    `closing` is the tag after it, and `around` the white space that the model writes inside the tags. `token` is a part
    of the tags that may be a control token; `closing` then has something before it.
    """

    def __init__(self, before: Callable[[str, bool], str], closing: str, *, around: str = "", token: str = "") -> None:
        self._before = before
        self._closing = closing
        self._around = around
        self._token = token

    def text(self) -> str:
        """The rule for texts, which `arguments` refers to: up to the first closing tag, and with it."""
        if not self._token:
            return f"text[lazy]: CHARS {literal(self._closing)}\nCHARS: /(.|\\n)*/"
        begun, _, rest = self._closing.partition(self._token)
        return (
            f"text: inside {literal(rest)}\ninside[lazy]: CHARS {literal(self._token)}\n"
            f"CHARS: /(.|\\n)*{begun.replace('/', chr(92) + '/')}/"
        )

    def arguments(self, tool: Tool) -> str:
        """All arguments of a tool, in the order of its schema; those that are not required may be missing."""
        properties = tool.parameters.get("properties")
        required = tool.parameters.get("required")
        parts = []
        for name, schema in (properties if isinstance(properties, Mapping) else {}).items():
            values = [f"{self._before(name, is_text)} {value}" for is_text, value in self._values(schema, tool)]
            part = f'({" | ".join(values)}) "\\n"'
            parts.append(part if isinstance(required, list) and name in required else f"({part})?")
        return " ".join(parts)

    def _values(self, schema: Any, tool: Tool) -> list[tuple[bool, str]]:
        """What the value of an argument may be, with the tag after it, and whether that is a text."""
        around, ending = literal(self._around) if self._around else "", self._around + self._closing
        after = spelled(ending, self._token) if self._token else literal(ending)
        values = None
        if isinstance(schema, Mapping):
            values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list) and values:
            texts = [literal(value) if value else '""' for value in values if isinstance(value, str)]
            others = [literal(json.dumps(value)) for value in values if not isinstance(value, str)]
            found = ((True, texts), (False, others))
            return [(is_text, f"{around} ({' | '.join(some)}) {after}") for is_text, some in found if some]
        types = schema_types(schema, tool)
        if "string" in types or not types or not isinstance(schema, Mapping):
            return [(True, f"{around} text")]
        shared = {key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters}
        return [(False, f"{around} {json_text({**shared, **schema})} {after}")]
