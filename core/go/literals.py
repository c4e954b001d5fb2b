"""Values as Go's format ``%#v`` writes them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from corral.core.go.quoting import quote

__all__ = ("literal",)

_PLAIN_FROM, _PLAIN_BELOW = -4, 6  # the decimal exponents for which Go writes plain digits


def literal(value: Any) -> str:
    """A string in quotes; every number as a float64, since Go decodes JSON numbers so; anything else as JSON."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _float64(float(value))
    return json.dumps(value)


def _float64(number: float) -> str:
    """The fewest digits that identify the number, with an exponent from a million (``1e+06``)."""
    digits = Decimal(repr(number))
    exponent = digits.adjusted() if number else 0
    if _PLAIN_FROM <= exponent < _PLAIN_BELOW:
        return repr(number).removesuffix(".0")
    return f"{digits.normalize():e}".partition("e")[0] + f"e{exponent:+03d}"
