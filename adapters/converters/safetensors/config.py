"""Reads what ``config.json`` says about a checkpoint: numbers by name, each checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from corral.core.errors import InvalidModelFile

__all__ = ("Config",)

_MOST = (1 << 31) - 1  # llama.cpp keeps counts in 32 bits


class Config:
    """The values of one JSON object; `where` names it in errors. A value of null counts as absent.

    Everything raises `InvalidModelFile` for a value of the wrong type, and without a default also for one that is
    absent.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._nulls = values.keys() - self._values.keys()
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def is_null(self, name: str) -> bool:
        """Whether the value is null on purpose, which a few names tell from absent."""
        return name in self._nulls

    def replaced(self, **values: Any) -> Config:
        """The same with other values."""
        return Config({**dict.fromkeys(self._nulls), **self._values, **values}, self._where)

    def with_defaults(self, defaults: Mapping[str, Any]) -> Config:
        """The same with values for what is absent, but not for what is null on purpose."""
        return Config({**defaults, **dict.fromkeys(self._nulls), **self._values}, self._where)

    def raw(self, name: str) -> Any:
        """The value as JSON has it; None if it is absent."""
        return self._values.get(name)

    def count(self, name: str, default: int | None = None) -> int:
        """A number of something, 1 or more."""
        value = self._value(name, default)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not 1 <= value <= _MOST:
            raise self._wrong(name, value, f"a whole number from 1 to {_MOST}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._value(name, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._wrong(name, value, "a number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if type(value) is not bool:
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if type(value) is not str:
            raise self._wrong(name, value, "a text")
        return value

    def section(self, name: str) -> Config:
        """The object in this one; empty if it is absent."""
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return Config(value, f"{self._where}: {name}")

    def _value(self, name: str, default: Any) -> Any:
        value = self._values.get(name, default)
        if value is None:
            raise InvalidModelFile(f"{self._where} has no {name!r}, which the architecture needs", "fetch it again")
        return value

    def _wrong(self, name: str, value: Any, wanted: str) -> InvalidModelFile:
        return InvalidModelFile(f"{self._where}: {name} is {str(value)[:60]!r} instead of {wanted}", "fetch it again")
