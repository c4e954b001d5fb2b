"""The addresses of upstreams: their normal form, and which of several gets the next request."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit

from corral.core.errors import InvalidRequest

__all__ = ("next_address", "normal_address")

_PORTS = {"http": 80, "https": 443}


class _Address(Protocol):
    in_flight: int
    rests_until_s: float


AddressT = TypeVar("AddressT", bound=_Address)


def normal_address(text: str) -> str:
    """The form in which addresses are compared: ``scheme://host[:port][/path]``.

    A default port, a final slash and ``/v1`` are left out; the default scheme is http. Raises `InvalidRequest`, also
    for a user or key in the address: keys belong in the settings.
    """
    shown = text.strip()
    parts = _split(shown if "://" in shown else f"http://{shown}")
    if parts is None or parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise InvalidRequest(f"not an address of a server: {text[:100]!r}", "write it as http://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(
            f"the address of {parts.hostname} contains a user name or a key",
            'put it in the settings, as key_env of [engines.upstream.hosts."ADDRESS"]',
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/').removesuffix('/v1').rstrip('/')}"


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts if re.fullmatch(r"[\w.%:-]+", parts.hostname or "") and not re.search(r"\s", text) else None


def next_address(
    addresses: Sequence[AddressT], tried: Collection[AddressT], clock: Callable[[], float] = time.monotonic
) -> AddressT | None:
    """The address with the fewest requests in progress. Those that failed recently come last, the longest ago first.

    None if all have been tried.
    """
    now_s = clock()
    left = [address for address in addresses if address not in tried]
    return min(left, key=lambda one: (max(0.0, one.rests_until_s - now_s), one.in_flight), default=None)
