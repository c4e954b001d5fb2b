"""The numbers of a JSON Schema: only those that can be enforced exactly, and bounds for integers that have none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

__all__ = ("COUNTS", "NUMBERS", "ExactNumbers", "bound_integers")

NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")

_MAX_EXACT = 1 << 53
"""Beyond it not every integer has its own double, and llguidance computes with doubles."""
_MAX_MULTIPLE_DIGITS = 20_000
"""The largest sum of all `multipleOf` of a schema, as integers: each remainder is a state of the automaton."""
_MAX_BOUNDED_DIGITS = 200
"""The same for numbers that also have a range: there, each remainder is a state for each digit."""


class ExactNumbers:
    """Checks the numbers of all schemas within one, and collects their `multipleOf`."""

    def __init__(self) -> None:
        self.multiples: list[Fraction] = []

    def check(self, schema: Mapping[str, Any]) -> None:
        """Raises `ValueError` for a number that llguidance would change."""
        for key in (*NUMBERS, *COUNTS):
            _check_exact(key, schema.get(key))
        for key in ("const", "enum"):
            if key in schema:
                _each_number(schema[key], lambda number, key=key: _check_exact(key, number))  # type: ignore[misc]
        multiple = schema.get("multipleOf")
        if isinstance(multiple, int | float) and not isinstance(multiple, bool) and multiple > 0:
            self.multiples.append(Fraction(Decimal(repr(multiple))))

    def check_multiples(self, *, at_once: bool) -> bool:
        """Whether they are so small that numbers can be bounded as well. Raises `ValueError` if they are too large
        together. `at_once`: one number may have to satisfy several of them.
        """
        states = sum(_as_whole(multiple) for multiple in self.multiples)
        if at_once and self.multiples:
            distinct = set(self.multiples)
            numerators = [multiple.numerator for multiple in distinct]
            denominators = [multiple.denominator for multiple in distinct]
            states = max(states, _as_whole(Fraction(_bounded_lcm(numerators), math.gcd(*denominators))))
        if states > _MAX_MULTIPLE_DIGITS:
            raise ValueError(
                f"its multipleOf values are too large together: without decimal points, they may add up to at most "
                f"{_MAX_MULTIPLE_DIGITS}"
            )
        return states <= _MAX_BOUNDED_DIGITS


def _bounded_lcm(numbers: Iterable[int]) -> int:
    whole = 1
    for number in numbers:
        whole = math.lcm(whole, number)
        if whole > _MAX_MULTIPLE_DIGITS * 10**20:
            break
    return whole


def _as_whole(number: Fraction) -> int:
    """A decimal fraction's digits without its decimal point: 0.25 is 25."""
    while number.denominator != 1:
        number *= 10
    return number.numerator


def bound_integers(schema: dict[str, Any]) -> None:
    """Bounds integers without bounds to what is exact: small models write digits without end."""
    types = schema.get("type")
    if types != "integer" and not (isinstance(types, list) and "integer" in types and "number" not in types):
        return
    if "const" in schema or "enum" in schema:
        return
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" not in schema and lowest is None and (highest is None or highest > -_MAX_EXACT):
        schema["minimum"] = -_MAX_EXACT
    if "exclusiveMaximum" not in schema and highest is None and (lowest is None or lowest < _MAX_EXACT):
        schema["maximum"] = _MAX_EXACT


def _each_number(value: Any, check: Callable[[Any], None]) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _each_number(item, check)
    else:
        check(value)


def _check_exact(key: str, value: Any) -> None:
    """Raises `ValueError` for a number that llguidance would change."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    limit = _MAX_EXACT - 1 if key.startswith("exclusive") else _MAX_EXACT  # the next integer counts there
    if not -limit <= value <= limit:
        shown = repr(value) if isinstance(value, float) or abs(value) < 10**40 else "a number of many digits"
        raise ValueError(f"{key}: {shown} cannot be enforced exactly; numbers up to ±{limit} are accepted")
