"""JSON Schemas inside a Lark grammar: they mean what they mean as the schema of an answer."""

from __future__ import annotations

import json
import re

from corral.adapters.constraints.json_schemas import enforceable_schema

__all__ = ("with_enforceable_schemas",)

# Texts, regular expressions and comments are passed over: a schema's keyword inside them is none.
_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?![/*])(?:\\.|[^/\\\n])+/|//[^\n]*|(%json)\s*(?=\{)')


def with_enforceable_schemas(grammar: str) -> str:
    """The grammar with each ``%json {…}`` rewritten. Raises `ValueError` if one of them cannot be used."""
    parts: list[str] = []
    position = 0
    while (found := _TOKEN.search(grammar, position)) is not None:
        if found[1] is None:
            parts.append(grammar[position : found.end()])
            position = found.end()
            continue
        schema, end = json.JSONDecoder().raw_decode(grammar, found.end())
        parts += [grammar[position : found.start()], "%json ", json.dumps(enforceable_schema(schema))]
        position = end
    return "".join([*parts, grammar[position:]])
