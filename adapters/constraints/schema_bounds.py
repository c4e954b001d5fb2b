"""Bounds the texts of a JSON Schema that have a pattern or a format, but no length: small models write them forever.

Dates and times are also held to what every validator accepts: years of four digits, 29 February in leap
years only, capital letters, no leap seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ("bound_texts",)

_LENGTHS: Mapping[str, int] = {
    "date-time": 35,  # with nine digits for fractions of a second
    "time": 24,
    "duration": 40,
    "email": 64,
    "hostname": 64,
}
_LEAP_YEAR = "([12][0-9](0[48]|[2468][048]|[13579][26])|2000)"
_DATE = f"^([12][0-9]{{3}}-(02-([01][0-9]|2[0-8])|(0[13-9]|1[0-2])-[0-9]{{2}})|{_LEAP_YEAR}-02-29)"
_TIME = r"[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
_PATTERNS: Mapping[str, str] = {"date": f"{_DATE}$", "time": f"^{_TIME}", "date-time": f"{_DATE}T{_TIME}"}
_LONGEST_TEXT = 128
"""Texts that match a pattern are names, numbers and codes; a longer pattern, or one that counts further, stays free."""

_DOT = r"[^\n\r\u2028\u2029]"

_COUNTED = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_MOST_COUNTED = 32


def bound_texts(schema: Any) -> None:
    """Adds `maxLength` to such texts in all of a schema, in place. Values in `enum` and `const` stay as they are."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "maxLength" not in value and (length := _length(value)):
                least = value.get("minLength")
                value["maxLength"] = max(length, least) if isinstance(least, int) else length
            if isinstance(value.get("pattern"), str):
                value["pattern"] = _with_lines(value["pattern"])
            form = value.get("format")
            if "pattern" not in value and isinstance(form, str) and form in _PATTERNS:
                value["pattern"] = _PATTERNS[form]
            waiting += (inner for key, inner in value.items() if key not in ("enum", "const"))
        elif isinstance(value, list):
            waiting += value


def _with_lines(pattern: str) -> str:
    """The pattern with every dot spelled out as JavaScript means it: llguidance's also matches a carriage return."""
    pieces, escaped, in_class = [], False, False
    for character in pattern:
        pieces.append(_DOT if character == "." and not (escaped or in_class) else character)
        if not escaped:
            in_class = character == "[" or (in_class and character != "]")
        escaped = character == "\\" and not escaped
    return "".join(pieces)


def _length(schema: Mapping[str, Any]) -> int | None:
    pattern, form = schema.get("pattern"), schema.get("format")
    if isinstance(pattern, str):
        counts = [int(number) for found in _COUNTED.findall(pattern) for number in found if number and len(number) < 9]
        if len(pattern) > _LONGEST_TEXT or sum(counts) > _MOST_COUNTED or pattern.count("{") > len(counts):
            return None
        return _LONGEST_TEXT
    return _LENGTHS.get(form) if isinstance(form, str) else None
