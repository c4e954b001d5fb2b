"""Converts every kind of constraint to a Lark grammar, the language that llguidance compiles.

Syntax: llguidance's ``docs/syntax.md``; its JSON Schema options: ``docs/json_schema.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import llguidance
from llguidance.gbnf_to_lark import gbnf_to_lark

from corral.adapters.constraints.embedded_schemas import with_enforceable_schemas
from corral.adapters.constraints.json_schemas import json_schema_grammar
from corral.core.errors import InvalidRequest
from corral.core.requests.requests import Constraint

__all__ = ("complaint_about", "lark_of")

_MAX_SOURCE_CHARS: Mapping[str, int] = {"json_schema": 64 << 10, "gbnf": 16 << 10, "lark": 32 << 10, "regex": 32 << 10}
"""These compile in at most about two seconds: the time grows with the square of a grammar's size."""

_FREE_TOKENS = '\n%llguidance {"no_forcing": true}\n'
"""The model spells a fixed text with the tokens it prefers, and no tokenizer is needed."""

_NAMES: Mapping[str, str] = {
    "json_schema": "JSON schema",
    "gbnf": "GBNF grammar",
    "lark": "Lark grammar",
    "regex": "regular expression",
}

_LONGEST_LINE = 200

_PLACE = re.compile(r"^(at )?(\d+)\((\d+)\): (failed to compile JSON schema: )?")


def lark_of(constraint: Constraint) -> str:
    """Return the grammar's text. Raises `InvalidRequest` if the source is too long or not of its kind."""
    limit = _MAX_SOURCE_CHARS["json_schema" if constraint.subject == "tools" else constraint.kind]
    if len(constraint.source) > limit:
        raise InvalidRequest(
            f"the {_called(constraint)} has {len(constraint.source)} characters; at most {limit} are accepted",
            "split the task, or describe less of the answer",
        )
    try:
        return _BODIES[constraint.kind](constraint.source) + _FREE_TOKENS
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the {_called(constraint)} cannot be used: {error}") from error


def complaint_about(constraint: Constraint, message: str) -> str:
    """One line of llguidance's error, without positions and listings of a grammar that we generated."""
    lines = message.split("\n<")[0].splitlines() or ["unknown error"]
    line = lines[0]
    if line.startswith("NoExtension"):
        line = "no text can satisfy it"
    elif constraint.kind in ("json_schema", "regex"):
        line = _PLACE.sub("", line)
    if len(line) > _LONGEST_LINE:
        line = f"{line[:_LONGEST_LINE]}…"
    reason = next((f" {other[7:]}" for other in lines[1:] if other.startswith("error: ")), "")  # of a regex
    return f"the {_called(constraint)} cannot be used: {line}{reason}"


def _called(constraint: Constraint) -> str:
    return "grammar of the tools' calls" if constraint.subject == "tools" else _NAMES[constraint.kind]


def _gbnf(source: str) -> str:
    try:
        return str(gbnf_to_lark(source))
    except RecursionError:
        raise
    except Exception as error:  # its own errors and plain ones, both caused by the grammar
        raise ValueError(error) from error


def _regex(source: str) -> str:
    return f"start: /{llguidance.regex_to_lark(source)}/"


_BODIES: Mapping[str, Callable[[str], str]] = {
    "json_schema": json_schema_grammar,
    "gbnf": _gbnf,
    "lark": with_enforceable_schemas,
    "regex": _regex,
}
