"""Writes floating-point numbers like Go's ``strconv.FormatFloat``."""

from __future__ import annotations

import math
from decimal import Decimal

__all__ = ("float_text", "json_number")

_PLAIN_FROM, _PLAIN_BELOW = -4, 6
_JSON_FROM, _JSON_BELOW = -6, 21


def float_text(number: float, verb: str = "g", precision: int | None = None, *, sharp: bool = False) -> str:
    """The number for one of the verbs ``beEfFgGxX``, None for the fewest digits that identify it."""
    if math.isnan(number) or math.isinf(number):
        return "NaN" if number != number else "+Inf" if number > 0 else "-Inf"
    if verb == "b":
        return _binary(number)
    if verb in "xX":
        text = _hexadecimal(number)
        return text.upper() if verb == "X" else text
    if verb in "gG" and precision is None:
        if not sharp:
            text = _shortest(number)
            return text.upper() if verb == "G" else text
        precision = 6
    return f"{number:{'#' if sharp else ''}.{6 if precision is None else precision}{verb}}"


def json_number(number: float) -> str:
    """The number as ``encoding/json`` writes it."""
    if number == 0:
        return "-0" if math.copysign(1, number) < 0 else "0"
    exponent = Decimal(repr(number)).adjusted()
    if _JSON_FROM <= exponent < _JSON_BELOW:
        return _plain(number)
    mantissa, _, power = _scientific(number).partition("e")
    return f"{mantissa}e{power[0]}{power[1:].lstrip('0')}" if power[0] == "-" else f"{mantissa}e{power}"


def _shortest(number: float) -> str:
    exponent = Decimal(repr(number)).adjusted() if number else 0
    return _plain(number) if _PLAIN_FROM <= exponent < _PLAIN_BELOW else _scientific(number)


def _plain(number: float) -> str:
    text = f"{Decimal(repr(number)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scientific(number: float) -> str:
    digits = Decimal(repr(number)).normalize()
    return f"{digits:e}".partition("e")[0] + f"e{digits.adjusted():+03d}"


def _binary(number: float) -> str:
    mantissa, exponent = math.frexp(number)
    return f"{int(mantissa * 2**53)}p{exponent - 53:+d}"


def _hexadecimal(number: float) -> str:
    mantissa, _, exponent = number.hex().partition("p")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}p{int(exponent):+03d}"
