"""Reads `format`, the field with which clients of Ollama say what an answer must look like."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from corral.core.errors import InvalidOption, InvalidRequest
from corral.core.requests.requests import Constraint

__all__ = ("read_format",)


def read_format(value: Any) -> Constraint | None:
    """``"json"`` means any JSON object, an object is a JSON Schema; None and ``""`` mean no constraint.

    Raises `InvalidOption` with Ollama's text for anything else, `InvalidRequest` for a number that JSON does not have.
    """
    if value is None or value == "":
        return None
    if value == "json":
        return Constraint(kind="json_schema", source='{"type":"object"}')
    is_schema = isinstance(value, Mapping)
    try:
        source = json.dumps(dict(value) if is_schema else value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:  # a number like 1e400, which has become infinity
        raise InvalidRequest(f"format: {error}", "numbers up to ±9007199254740992 are accepted") from error
    except (TypeError, RecursionError) as error:  # bytes passed to the library, or lists nested too deeply
        raise InvalidOption(f"invalid format: {error}; expected JSON") from error
    if is_schema:
        return Constraint(kind="json_schema", source=source)
    quoted = json.dumps(source, ensure_ascii=False)
    raise InvalidOption(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
