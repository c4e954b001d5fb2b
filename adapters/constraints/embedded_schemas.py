"""JSON Schemas inside a Lark grammar: they mean what they mean as the schema of an answer."""

from __future__ import annotations

import json

from corral.adapters.constraints.json_schemas import enforceable_schema
from corral.adapters.constraints.lark_tokens import lark_tokens

__all__ = ("with_enforceable_schemas",)


def with_enforceable_schemas(grammar: str) -> str:
    """The grammar with each ``%json {…}`` rewritten. Raises `ValueError` if one of them cannot be used."""
    return "".join(
        f"%json {json.dumps(enforceable_schema(part))}" if kind == "schema" else part
        for kind, part in lark_tokens(grammar)
    )
