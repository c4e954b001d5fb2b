"""Constants in Go's syntax: quoted strings and numbers."""

from __future__ import annotations

import re

from corral.core.go.quoting import quote
from corral.core.values import Value

__all__ = ("BadConstant", "Number", "read_character", "read_complex", "read_number", "unquote")

_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34}
_DIGITS = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]*")
_OCTAL = re.compile(r"[0-7]{3}")
_INTEGER = re.compile(r"([+-]?)(0[xX]_?[0-9a-fA-F]|0[oO]_?[0-7]|0[bB]_?[01]|0_?[0-7]|[0-9])((?:_?[0-9a-fA-F])*)")
_FLOAT = re.compile(r"[+-]?(?:[0-9](?:_?[0-9])*\.?|\.(?=[0-9]))(?:[0-9](?:_?[0-9])*)?(?:[eE][+-]?[0-9](?:_?[0-9])*)?")
_HEX_FLOAT = re.compile(r"[+-]?0[xX](?=_?\.?[0-9a-fA-F])_?[0-9a-fA-F_]*\.?[0-9a-fA-F_]*[pP][+-]?[0-9]+")
_COMPLEX = re.compile(
    r"([+-]?[0-9a-fA-FxXpP._]*(?:(?<=[eEpP])[+-][0-9]+)?)([+-][0-9a-fA-FxXpP._]*(?:(?<=[eEpP])[+-][0-9]+)?)i"
)


class BadConstant(ValueError):
    """Not a constant in Go's syntax; the text is Go's complaint."""


class Number(Value, frozen=True, kw_only=True):
    """A number with all types that can represent it exactly: None for those that cannot."""

    integer: int | None = None
    unsigned: int | None = None
    real: float | None = None
    whole: complex | None = None


def unquote(quoted: str) -> str:
    """The string that a constant in double or back quotes stands for.

    Bytes that are not UTF-8 become surrogates, as with the error handler ``surrogateescape``. Raises `BadConstant`.
    """
    inner = quoted[1:-1]
    if quoted[0] == "`":
        return inner.replace("\r", "")
    if "\\" not in inner:
        return inner
    data = bytearray()
    position = 0
    while position < len(inner):
        if inner[position] == "\\":
            code, is_byte, position = _escaped(inner, position + 1, '"')
            data += bytes([code]) if is_byte else chr(code).encode()
        else:
            data += inner[position].encode(errors="surrogateescape")
            position += 1
    return data.decode(errors="surrogateescape")


def read_character(quoted: str) -> Number:
    """The number of a constant in single quotes. Raises `BadConstant`."""
    inner = quoted[1:-1]
    if inner[:1] == "\\":
        code, _, position = _escaped(inner, 1, "'")
    elif inner:
        code, position = ord(inner[0]), 1
    else:
        raise BadConstant("invalid syntax")
    if position != len(inner):
        raise BadConstant(f"malformed character constant: {quoted}")
    return Number(integer=code, unsigned=code, real=float(code))


def read_number(text: str) -> Number:
    """Raises `BadConstant`."""
    if text[-1] == "i":
        imaginary = _real(text[:-1])
        if imaginary is not None:
            return _simplified(complex(0, imaginary))
    whole = _integer(text)
    integer = whole if whole is not None and -(2**63) <= whole < 2**63 else None
    unsigned = whole if whole is not None and text[0] not in "+-" and whole < 2**64 else None
    if integer == 0:
        unsigned = 0
    if integer is not None or unsigned is not None:
        exact = integer if integer is not None else unsigned
        return Number(integer=integer, unsigned=unsigned, real=float(exact or 0))
    real = _real(text)
    if real is None:
        raise BadConstant(f"illegal number syntax: {quote(text)}")
    if not any(character in text for character in ".eEpP"):
        raise BadConstant(f"integer overflow: {quote(text)}")
    return _of_real(real)


def read_complex(text: str) -> Number:
    """The number of a constant like ``1+2i``. Raises `BadConstant`."""
    found = _COMPLEX.fullmatch(text)
    real, imaginary = (_real(found[1]), _real(found[2])) if found else (None, None)
    if real is None or imaginary is None:
        raise BadConstant("syntax error scanning complex number")
    return _simplified(complex(real, imaginary))


def _escaped(text: str, position: int, delimiter: str) -> tuple[int, bool, int]:
    """The code of an escape whose backslash has been read, whether it is one byte, and the position after it."""
    kind = text[position : position + 1]
    if kind in ("'", '"') and kind != delimiter:
        raise BadConstant("invalid syntax")
    if kind in _SIMPLE:
        return _SIMPLE[kind], False, position + 1
    if kind in _DIGITS:
        digits = text[position + 1 : position + 1 + _DIGITS[kind]]
        if len(digits) < _DIGITS[kind] or not _HEX.fullmatch(digits):
            raise BadConstant("invalid syntax")
        code = int(digits, 16)
        if kind != "x" and (code > 0x10FFFF or 0xD800 <= code < 0xE000):
            raise BadConstant("invalid syntax")
        return code, kind == "x", position + 1 + _DIGITS[kind]
    octal = _OCTAL.match(text, position)
    if octal is None or int(octal[0], 8) > 255:
        raise BadConstant("invalid syntax")
    return int(octal[0], 8), True, position + 3


def _integer(text: str) -> int | None:
    found = _INTEGER.fullmatch(text)
    if found is None:
        return None
    digits = (found[2] + found[3]).replace("_", "").lower()
    base = {"x": 16, "o": 8, "b": 2}.get(digits[1:2], 8 if digits[0] == "0" and len(digits) > 1 else 10)
    try:
        value = int(digits[2:] if digits[1:2] in ("x", "o", "b") and digits[0] == "0" else digits, base)
    except ValueError:
        return None
    return -value if found[1] == "-" else value


def _real(text: str) -> float | None:
    """None for what is no float64, too large ones included."""
    try:
        if _HEX_FLOAT.fullmatch(text):
            return float.fromhex(text.replace("_", ""))
        value = float(text.replace("_", "")) if _FLOAT.fullmatch(text) else None
    except (ValueError, OverflowError):
        return None
    return None if value in (float("inf"), float("-inf")) else value


def _of_real(real: float) -> Number:
    whole = int(real) if real.is_integer() else None
    return Number(
        real=real,
        integer=whole if whole is not None and -(2**63) <= whole < 2**63 else None,
        unsigned=whole if whole is not None and 0 <= whole < 2**64 else None,
    )


def _simplified(number: complex) -> Number:
    if number.imag:
        return Number(whole=number)
    real = _of_real(number.real)
    return Number(integer=real.integer, unsigned=real.unsigned, real=real.real, whole=number)
