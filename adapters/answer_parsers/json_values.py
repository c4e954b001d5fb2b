"""Decodes JSON as models write it, with line breaks in strings."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import msgspec

__all__ = ("decoded",)


def decoded(text: str) -> Any:
    """The value of a JSON text; line breaks in strings are accepted. Raises `ValueError` for anything else."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        pass
    try:
        value = json.loads(text, strict=False, parse_constant=_refuse)
        # Half a surrogate pair, or a number that has become infinity, could not be sent.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
