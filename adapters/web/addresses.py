"""Addresses of pages: parsed strictly, so that what is checked is what is connected to."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from corral.core.values import Value
from corral.core.web_errors import AddressRefused
from corral.core.wording.clipping import clipped_line

__all__ = ("PageAddress", "parse_page_address", "redirected")

_LONGEST = 8192
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?!\d+(?:[/?#]|$))")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_BRACKETS = re.compile(r"\[[0-9A-Fa-f:.]+\](?::\d*)?")
_PORTS = {"http": 80, "https": 443}


class PageAddress(Value, frozen=True, kw_only=True):
    """Where a page is. `host` is in lower case, ASCII, an IPv6 address without brackets; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as a ``Host`` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_page_address(text: str, ports: Collection[int]) -> PageAddress:
    """Parses an address, which is one of ``https`` if it has no scheme.

    Raises `AddressRefused` with the reason: another scheme, a login, a port that is not among `ports`, a host that is
    none, or a number in a form that only some programs read as an address.
    """
    shown = clipped_line(text, 200)
    if len(text) > _LONGEST:
        raise AddressRefused(f"the address has {len(text)} characters: {shown}", f"at most {_LONGEST} are taken")
    if _CONTROL.search(text):
        raise AddressRefused(f"the address has a backslash or a control character in it: {shown}")
    scheme = _SCHEME.match(text)
    if scheme is None:
        text = f"https:{text}" if text.startswith("//") else f"https://{text}"
    elif scheme[1].lower() not in _PORTS:
        raise AddressRefused(
            f"addresses of {scheme[1].lower()}: are not fetched: {shown}", "only http:// and https:// are"
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as fault:
        raise AddressRefused(f"not an address: {shown}: {fault}") from fault
    if "@" in parts.netloc:
        raise AddressRefused(f"an address must not contain a login: {parts.scheme}://…@{parts.hostname or ''}")
    port = _PORTS[parts.scheme] if port is None else port
    if port not in ports:
        raise AddressRefused(
            f"pages are not fetched from port {port}: {shown}",
            f"web.ports allows {', '.join(map(str, ports)) or 'none'}",
        )
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    return PageAddress(
        scheme=parts.scheme,
        host=_host(parts, shown),
        port=port,
        target=f"{path if path.startswith('/') else '/' + path}{'?' + query if query else ''}",
    )


def redirected(page: PageAddress, location: str, ports: Collection[int]) -> PageAddress:
    """Where a redirect leads. Raises `AddressRefused` as `parse_page_address`."""
    if _CONTROL.search(location):
        raise AddressRefused(f"{page.url} redirects to what is not an address: {clipped_line(location, 200)}")
    try:
        joined = urljoin(page.url, location.strip())
    except ValueError as fault:
        raise AddressRefused(
            f"{page.url} redirects to what is not an address: {clipped_line(location, 200)}"
        ) from fault
    return parse_page_address(joined, ports)


def _host(parts: SplitResult, shown: str) -> str:
    host = parts.hostname or ""
    if "[" in parts.netloc or "]" in parts.netloc:
        try:
            if not _BRACKETS.fullmatch(parts.netloc):
                raise ValueError("only an address and a port are taken, without a network interface")
            return str(IPv6Address(host))
        except ValueError as fault:
            raise AddressRefused(f"not an IPv6 address: {shown}: {fault}") from fault
    try:
        host = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError as fault:
        raise AddressRefused(f"not the name of a host: {shown}") from fault
    if not host or len(host) > 253 or not _NAME.fullmatch(host):
        raise AddressRefused(f"not the name of a host: {shown}" if host else f"the address names no host: {shown}")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return str(IPv4Address(host))
        except ValueError as fault:
            raise AddressRefused(
                f"the host is a number in a form that is not fetched: {shown}",
                "an IPv4 address has four decimal numbers without leading zeros",
            ) from fault
    return host
