"""Converts every kind of constraint to a Lark grammar, the language that llguidance compiles.

Syntax: llguidance's ``docs/syntax.md``; its JSON Schema options: ``docs/json_schema.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import llguidance
from llguidance.gbnf_to_lark import gbnf_to_lark

from corral.adapters.constraints.embedded_schemas import with_enforceable_schemas
from corral.adapters.constraints.json_schemas import json_schema_grammar
from corral.core.errors import InvalidRequest
from corral.core.requests.requests import Constraint

__all__ = ("complaint_about", "grammars_of")

_MAX_SOURCE_CHARS: Mapping[str, int] = {
    "json_schema": 64 << 10,
    "gbnf": 16 << 10,
    "lark": 32 << 10,
    "regex": 32 << 10,
    "choice": 64 << 10,
}
"""These compile in at most about two seconds: the time grows with the square of a grammar's size."""

_FREE_TOKENS = '\n%llguidance {"no_forcing": true}\n'
"""The model spells a fixed text with the tokens it prefers, and no tokenizer is needed."""

_NAMES: Mapping[str, str] = {
    "json_schema": "JSON schema",
    "gbnf": "GBNF grammar",
    "lark": "Lark grammar",
    "regex": "regular expression",
    "choice": "list of choices",
}

_LONGEST_LINE = 200

_PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): (failed to compile JSON schema: )?")
_CARET = re.compile(r" {4} *\^+ *")
_REGEX = re.compile(r'^invalid regex ".*" \(in regex\): regex parse error:$')


def grammars_of(constraint: Constraint) -> Iterator[str]:
    """Grammars to try one after the other, as text. Raises `InvalidRequest` if the source is too long or not of its
    kind.
    """
    limit = _MAX_SOURCE_CHARS["json_schema" if constraint.subject == "tools" else constraint.kind]
    if len(constraint.source) > limit:
        raise InvalidRequest(
            f"the {_called(constraint)} has {len(constraint.source)} characters; at most {limit} are accepted",
            "split the task, or describe less of the answer",
        )
    try:
        first = _BODIES[constraint.kind](constraint.source)
        yield first + _FREE_TOKENS
        if constraint.kind == "json_schema":  # bounds that the caller did not set may leave no text, or be too complex
            second = json_schema_grammar(constraint.source, bounded=False)
            if second != first:
                yield second + _FREE_TOKENS
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the {_called(constraint)} cannot be used: {error}") from error


def complaint_about(constraint: Constraint, message: str) -> str:
    """One line of llguidance's error: with its place in the caller's grammar, but not in one that we generated."""
    lines = message.split("\n<")[0].splitlines() or ["unknown error"]
    line = lines[0]
    if line.startswith("NoExtension"):
        line = "no text can satisfy it"
    elif constraint.kind in ("json_schema", "regex", "choice"):
        line = _PLACE.sub("", line)
    else:
        line = _PLACE.sub(r"line \1, column \2: ", line)
    if constraint.kind == "regex" and _REGEX.match(line):
        line = _place_in_regex(lines)
    if len(line) > _LONGEST_LINE:
        line = f"{line[:_LONGEST_LINE]}…"
    reason = next((f" {other[7:]}" for other in lines[1:] if other.startswith("error: ")), "")  # of a regex
    return f"the {_called(constraint)} cannot be used: {line}{reason}"


def _place_in_regex(lines: Sequence[str]) -> str:
    """Where an expression of one line is wrong; llguidance marks the place with a caret below it."""
    carets = [line.index("^") - 4 for line in lines if _CARET.fullmatch(line)]
    return f"at character {carets[0] + 1}:" if carets else "it is wrong:"


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


def _choice(source: str) -> str:
    return "start: " + " | ".join(json.dumps(text) for text in json.loads(source))


_BODIES: Mapping[str, Callable[[str], str]] = {
    "json_schema": json_schema_grammar,
    "gbnf": _gbnf,
    "lark": with_enforceable_schemas,
    "regex": _regex,
    "choice": _choice,
}
