"""Checks `think`, the field with which clients switch a model's thinking on or off, or say how hard it thinks."""

from __future__ import annotations

from typing import Any

from corral.core.errors import InvalidRequest
from corral.core.go.quoting import quote

__all__ = ("check_think",)

_LEVELS = ("high", "medium", "low", "max")
_CHOICES = '"high", "medium", "low", "max", true, or false'


def check_think(value: Any) -> bool | str | None:
    """Returns the value if it is a bool, a level or None. Otherwise raises `InvalidRequest` with Ollama's text."""
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise InvalidRequest(f"think must be a boolean or string ({_CHOICES})")
    if value not in _LEVELS:
        raise InvalidRequest(f"invalid think value: {quote(value)} (must be {_CHOICES})")
    return value
