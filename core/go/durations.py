"""Durations as Ollama's clients write them: numbers of seconds, and Go's notation such as ``1h30m``."""

from __future__ import annotations

import re
from typing import Any

from msgspec import UNSET, UnsetType

from corral.core.errors import InvalidRequest
from corral.core.go.quoting import quote_ascii

__all__ = ("parse_duration_s", "parse_keep_alive_s", "parse_keep_alive_setting_s")

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_TERM = re.compile(r"(?P<whole>[0-9]*)(?P<fraction>\.[0-9]*)?(?P<unit>[^.0-9]*)")
_MAX_NS = 2**63 - 1

# Go's names of decoded JSON types in error messages.
_GO_TYPES = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}


def parse_duration_s(text: str) -> float:
    """Seconds of a Go duration such as ``1h30m``, ``-1.5s`` or ``0``. Raises `InvalidRequest` with Go's texts."""
    rest, sign = text, 1
    if rest[:1] in ("-", "+"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0.0
    if not rest:
        raise InvalidRequest(f"time: invalid duration {quote_ascii(text)}")
    total_ns, position = 0, 0
    while position < len(rest):
        term = _TERM.match(rest, position)
        if term is None or not (term["whole"] or (term["fraction"] or ".") != "."):
            raise InvalidRequest(f"time: invalid duration {quote_ascii(text)}")
        if not term["unit"]:
            raise InvalidRequest(f"time: missing unit in duration {quote_ascii(text)}")
        unit_ns = _UNITS_NS.get(term["unit"])
        if unit_ns is None:
            raise InvalidRequest(f"time: unknown unit {quote_ascii(term['unit'])} in duration {quote_ascii(text)}")
        total_ns += int(term["whole"][:40] or 0) * unit_ns
        if term["fraction"]:
            total_ns += int(float("0" + term["fraction"][:40] + "0") * unit_ns)
        if total_ns > _MAX_NS:
            raise InvalidRequest(f"time: invalid duration {quote_ascii(text)}")
        position = term.end()
    return sign * total_ns / 1e9


def parse_keep_alive_s(value: Any) -> float | UnsetType | None:
    """The ``keep_alive`` of a decoded JSON request in seconds. None means forever, ``UNSET`` that it is not given.

    A number is in seconds, a string is a Go duration; negative means forever. Raises `InvalidRequest` with Ollama's
    texts.
    """
    if value is None or value is UNSET:
        return UNSET
    if isinstance(value, str):
        seconds = parse_duration_s(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Ollama treats a number too large for its clock as forever; NaN is treated likewise here.
        seconds = float(value) if abs(value) < _MAX_NS / 1e9 else -1.0
    else:
        raise InvalidRequest(f"Unsupported type: '{_GO_TYPES.get(type(value), type(value).__name__)}'")
    # "-0s" is zero; only negative values mean forever.
    return None if seconds < 0 else seconds


def parse_keep_alive_setting_s(text: str) -> float | None:
    """A keep-alive from the environment or a settings file: as `parse_keep_alive_s`, or plain seconds.

    Raises `InvalidRequest`.
    """
    text = text.strip()
    seconds = float(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else parse_duration_s(text)
    return None if seconds < 0 else seconds
