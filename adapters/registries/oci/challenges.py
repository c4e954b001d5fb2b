"""Reads ``WWW-Authenticate``: what a registry demands of whoever asks (RFC 9110, section 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from corral.core.values import Value

__all__ = ("Challenge", "parse_challenges")

_LONGEST = 16 * 1024
_MOST = 16
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Possessive: a header of blanks would otherwise be tried from each of them.
_SCHEME = re.compile(rf"[ \t,]*+(?P<scheme>{_TOKEN}+)(?:[ \t]++(?!,)|(?=[ \t]*+(?:,|$)))")
_PARAMETER = re.compile(
    rf'[ \t,]*+(?P<name>{_TOKEN}+)[ \t]*+=[ \t]*+(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<plain>{_TOKEN}+))'
)


class Challenge(Value, frozen=True, kw_only=True):
    """One demand. `scheme` is in lower case; for ``bearer``, `realm` is where tokens are, and `scopes` what for."""

    scheme: str
    realm: str = ""
    service: str = ""
    scopes: tuple[str, ...] = ()


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The first demands of a response, in its order. What is malformed is left out."""
    found: list[Challenge] = []
    for header in headers:
        if len(found) < _MOST:
            found += _parse(header[:_LONGEST])
    return found[:_MOST]


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while position < len(header) and len(found) < _MOST:
        parameter = _PARAMETER.match(header, position)
        scheme = None if parameter else _SCHEME.match(header, position)
        if scheme is None:
            break
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            position = parameter.end()
            quoted = parameter["quoted"]
            value = parameter["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(parameter["name"].lower(), value)
        found.append(
            Challenge(
                scheme=scheme["scheme"].lower(),
                realm=parameters.get("realm", ""),
                service=parameters.get("service", ""),
                scopes=tuple(parameters.get("scope", "").split()),
            )
        )
    return found
