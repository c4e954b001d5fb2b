"""Checks finished answers against their JSON Schema, with jsonschema-rs, which is imported for the first one.

Its regular expressions take linear time, and references to other documents are refused instead of fetched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from corral.adapters.constraints.deep_stack import on_deep_stack
from corral.adapters.constraints.schema_walk import complaint_about_work
from corral.core.ports.format_checks import FormatCheck
from corral.core.wording.clipping import clipped_line
from corral.core.wording.pip_lines import pip_line

__all__ = ("SchemaChecker", "fitting")

_REQUIREMENT = "jsonschema-rs>=0.40,<1"
_LONGEST_SCHEMA, _LONGEST_TEXT = 64 << 10, 1 << 20
_DEEPEST_SCHEMA = 200
_REGEX_BYTES = 256 << 10
"""The largest compiled pattern. Larger ones are refused within a millisecond; by default, one may take 10 MB, and keeps
all other threads waiting for a tenth of a second.
"""


class SchemaChecker:
    """A `FormatChecker`."""

    def check(self, schema: str, text: str) -> FormatCheck:
        try:
            return on_deep_stack(lambda: _check(schema, text))  # the validator follows a value recursively
        except Exception as error:  # whatever a hostile schema makes of the library
            return _unchecked(f"{type(error).__name__}: {error}")


def fitting(schema: dict[str, Any], values: Sequence[Any]) -> list[Any]:
    """Those of the values that fit a schema. All of them if that cannot be checked."""
    if complaint_about_work(schema, values, each=True) is not None:
        return list(values)
    try:
        import jsonschema_rs
    except ImportError:
        return list(values)
    try:
        validator = _validator(schema)
        return [value for value in values if validator.is_valid(value)]
    except (ValueError, jsonschema_rs.ReferencingError):
        return list(values)


def _validator(schema: dict[str, Any]) -> Any:
    import jsonschema_rs

    return jsonschema_rs.validator_for(
        schema,
        validate_formats=True,
        retriever=_retrieve,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES),
        mask="the value",
    )


def _check(source: str, text: str) -> FormatCheck:
    if len(source) > _LONGEST_SCHEMA or len(text) > _LONGEST_TEXT:
        return _unchecked("the schema or the answer is too long")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return FormatCheck(valid=False, problem=f"the answer is not complete JSON: {error}")
    schema = json.loads(source)
    if _too_deep(schema):
        return _unchecked("the schema is nested too deeply")
    if (complaint := complaint_about_work(schema, value)) is not None:
        return _unchecked(complaint)
    try:
        import jsonschema_rs
    except ImportError as error:
        return _unchecked(f"{error}; {pip_line(_REQUIREMENT)}")
    try:
        validator = _validator(schema)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return _unchecked((str(error).splitlines() or ["the schema is invalid"])[0])
    for fault in validator.iter_errors(value):
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.instance_path)
        return FormatCheck(valid=False, problem=clipped_line(f"${place}: {fault.message}"))
    return FormatCheck(valid=True)


def _too_deep(schema: Any) -> bool:
    waiting = [(schema, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST_SCHEMA:
            return True
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += ((one, depth + 1) for one in inner)
    return False


def _unchecked(reason: str) -> FormatCheck:
    return FormatCheck(valid=None, problem=clipped_line(f"not checked: {reason}"))


def _retrieve(address: str) -> NoReturn:
    raise ValueError(f"{address} is not fetched")


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number[:40]} is too large")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
