"""Which browser origins and which host names the server answers: Ollama's CORS and DNS-rebinding rules."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from functools import lru_cache

__all__ = ("ALLOWED_HEADERS", "ALLOWED_METHODS", "OriginRules", "host_is_local", "is_loopback")

_LOCAL_ORIGINS = tuple(
    f"{scheme}://{host}{port}"
    for host in ("localhost", "127.0.0.1", "0.0.0.0")
    for scheme in ("http", "https")
    for port in ("", ":*")
)
_APP_ORIGINS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(network) for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)

ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_STAINLESS = (
    "arch", "async", "custom-poll-interval", "helper-method", "lang", "os", "package-version", "poll-helper",
    "retry-count", "runtime", "runtime-version", "timeout",
)  # fmt: skip
ALLOWED_HEADERS = ",".join(
    (
        "Authorization",
        "Content-Type",
        "User-Agent",
        "Accept",
        "X-Requested-With",
        "OpenAI-Beta",
        "X-Api-Key",
        "Anthropic-Version",
        "Anthropic-Beta",
        "Anthropic-Dangerous-Direct-Browser-Access",
        *(f"x-stainless-{name}" for name in _STAINLESS),
    )
)


class OriginRules:
    """Local origins, schemes of desktop applications, and configured origins. A pattern has at most one ``*``."""

    def __init__(self, extra: Sequence[str] = ()) -> None:
        patterns = [origin.strip().lower() for origin in (*_LOCAL_ORIGINS, *_APP_ORIGINS, *extra) if origin.strip()]
        self._any = "*" in patterns
        self._exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
        self._wildcards = tuple(pattern.partition("*")[::2] for pattern in patterns if "*" in pattern)

    def allows(self, origin: str) -> bool:
        return (
            self._any
            or origin in self._exact
            or any(
                len(origin) >= len(start) + len(end) and origin.startswith(start) and origin.endswith(end)
                for start, end in self._wildcards
            )
        )


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(256)
def host_is_local(host_header: str) -> bool:
    """Whether a ``Host`` header names this machine. A name that someone else's DNS could resolve does not."""
    host = _without_port(host_header).strip().lower()
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host in ("", "localhost", socket.gethostname().lower()) or host.endswith(_LOCAL_SUFFIXES)
    return (
        address.is_loopback
        or address.is_unspecified
        or any(address in network for network in _PRIVATE_NETWORKS)
        or _is_own(address)
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0] if host.count(":") == 1 else host


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """An address belongs to this machine if a socket can be bound to it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
