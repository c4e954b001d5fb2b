"""The types of settings: durations and addresses, written as Ollama writes them."""

from __future__ import annotations

import math
import re
from typing import Any

from corral.core.errors import InvalidRequest
from corral.core.go.durations import parse_duration_s

__all__ = ("Address", "Duration", "decode_setting_type", "encode_setting_type")

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11434
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Duration:
    """A number of seconds, or a text such as ``5m``. Each setting defines what 0 and negative values mean."""

    __slots__ = ("seconds", "text")

    def __init__(self, value: str | float) -> None:
        """Raises `InvalidRequest`."""
        self.text = str(value).strip()
        bare = re.fullmatch(r"[+-]?\d{1,18}(\.\d+)?", self.text)
        self.seconds = float(self.text) if bare else parse_duration_s(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and other.seconds == self.seconds

    def __hash__(self) -> int:
        return hash(self.seconds)

    def __repr__(self) -> str:
        return f"Duration({self.text!r})"

    @property
    def keep_alive_s(self) -> float | None:
        """The value as a keep-alive: negative means forever (None)."""
        return None if self.seconds < 0 else self.seconds

    @property
    def limit_s(self) -> float:
        """The value as a time limit: 0 or negative means no limit (infinity)."""
        return math.inf if self.seconds <= 0 else self.seconds


class Address:
    """The address where a server listens, and where a client looks for it.

    Written as ``HOST``, ``HOST:PORT``, ``:PORT``, a URL, or ``unix:PATH``. The default port is 11434, or that of the
    URL's scheme; an invalid port falls back to it, as in Ollama. `unix_path` is None for a network address. Never
    raises: `problem` says what is wrong with the text, None if nothing is.
    """

    __slots__ = ("host", "path", "port", "problem", "scheme", "text", "unix_path")

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.unix_path: str | None = None
        self.problem: str | None = None
        self.scheme, self.host, self.port, self.path = "http", DEFAULT_HOST, DEFAULT_PORT, ""
        if self.text.startswith("unix:"):
            self.unix_path = re.sub(r"^//(?=/)", "", self.text.removeprefix("unix:"))
            self.problem = None if self.unix_path else "no path follows unix:"
            return
        scheme, separator, rest = self.text.partition("://")
        if not separator:
            scheme, rest = ("https" if self.text == "ollama.com" else "http"), self.text
            self.port = 443 if scheme == "https" else DEFAULT_PORT
        else:
            self.port = _DEFAULT_PORTS.get(scheme, DEFAULT_PORT)
        self.scheme = scheme
        place, _, path = rest.partition("/")
        self.path = path.rstrip("/")
        host, port = _split_host_port(place)
        self.host = host or DEFAULT_HOST
        if scheme not in _DEFAULT_PORTS:
            self.problem = f"{scheme!r} is neither http nor https"
        elif path and not separator:
            self.problem = "a path needs a scheme before it: unix:, http:// or https://"
        elif not re.fullmatch(r"[\w.%:-]*", host):
            self.problem = f"{host!r} is not a host"
        if port.isdecimal() and 0 <= int(port) < 65536:
            self.port = int(port)
        elif port:
            self.problem = f"{port!r} is not a port"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __repr__(self) -> str:
        return f"Address({self.text!r})"

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" + (f"/{self.path}" if self.path else "")


def _split_host_port(place: str) -> tuple[str, str]:
    if place.count(":") > 1 and not place.startswith("["):
        return place, ""  # a bare IPv6 address
    host, _, port = place.rpartition(":") if re.search(r":[^\]]*$", place) else (place, "", "")
    return host.removeprefix("[").removesuffix("]"), port


def decode_setting_type(wanted: type, value: Any) -> Any:
    """msgspec's ``dec_hook`` of the settings. Raises `ValueError` that says what is wrong."""
    if wanted is Duration:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                return Duration(value)
            except InvalidRequest as fault:
                raise ValueError(fault.message) from fault
        raise ValueError(f"a duration must be a number of seconds or a string such as '5m', not {value!r}")
    if wanted is Address:
        if isinstance(value, str):
            address = Address(value)
            if address.problem is not None:
                raise ValueError(f"not an address: {value!r}: {address.problem}")
            return address
        raise ValueError(f"an address must be a string such as '127.0.0.1:11434', not {value!r}")
    raise NotImplementedError(f"no setting is of type {wanted.__name__}")


def encode_setting_type(value: Any) -> Any:
    """The text that a value of these types was read from."""
    if isinstance(value, Duration | Address):
        return value.text
    raise NotImplementedError(type(value).__name__)
