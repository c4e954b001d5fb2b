"""Writes JSON as Go's encoding/json does, so that what both programs store has the same bytes and digest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

__all__ = ("encode_json",)

_ESCAPED = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
_PLAIN_FROM, _PLAIN_BELOW = 1e-6, 1e21  # outside of these, Go writes an exponent


def encode_json(value: Any, *, sort_keys: bool = False) -> bytes:
    """A line of JSON, as ``json.Encoder.Encode`` writes it: ``<``, ``>`` and ``&`` escaped, a line break at the end.

    `sort_keys` is how Go writes maps; keys of structs stay in order. Raises `ValueError` for infinity and NaN, and
    `TypeError` for what JSON does not have.
    """
    return (_written(value, sort_keys) + "\n").encode()


def _written(value: Any, sort_keys: bool) -> str:
    if isinstance(value, str):
        return _ESCAPED.sub(_escape, json.dumps(value, ensure_ascii=False))
    if value is None or isinstance(value, (bool, int)):
        return json.dumps(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        names = sorted(value, key=str.encode) if sort_keys else value
        return "{" + ",".join(f"{_written(name, False)}:{_written(value[name], sort_keys)}" for name in names) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_written(item, sort_keys) for item in value) + "]"
    raise TypeError(f"JSON has no {type(value).__name__}")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{0xFFFD if 0xD800 <= code <= 0xDFFF else code:04x}"


def _float(number: float) -> str:
    """The fewest digits that identify the number; a whole number without a fraction."""
    digits = Decimal(json.dumps(number, allow_nan=False))
    if number and not _PLAIN_FROM <= abs(number) < _PLAIN_BELOW:
        mantissa, _, exponent = f"{digits.normalize():e}".partition("e")
        return f"{mantissa}e{'-' if int(exponent) < 0 else '+'}{abs(int(exponent))}"
    text = f"{digits:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
