"""Splits a Lark grammar into its literals, its JSON Schemas, and the text between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

__all__ = ("lark_tokens",)

# Regular expressions and comments are passed over: a literal inside them is none.
_TOKEN = re.compile(r'("(?:\\.|[^"\\\n])*")|/(?![/*])(?:\\.|[^/\\\n])+/|//[^\n]*|(%json)\s*(?=\{)')


def lark_tokens(grammar: str) -> Iterator[tuple[Literal["text", "literal", "schema"], Any]]:
    """Parts that make up the grammar: texts, literals with their quotes, and the values of schemas after ``%json``.

    Raises `ValueError` for a schema that is not JSON.
    """
    begun = position = 0
    while (found := _TOKEN.search(grammar, position)) is not None:
        position = found.end()
        if found[1] is None and found[2] is None:
            continue
        yield "text", grammar[begun : found.start()]
        if found[1] is not None:
            yield "literal", found[1]
        else:
            schema, position = json.JSONDecoder().raw_decode(grammar, position)
            yield "schema", schema
        begun = position
    yield "text", grammar[begun:]
