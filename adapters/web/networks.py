"""Which networks pages are fetched from: the public internet, and what a setting adds."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from corral.core.errors import SettingsError

__all__ = ("AllowedNetworks", "not_public")

_IPV4: Final = {
    "0.0.0.0/8": "this machine or network",
    "10.0.0.0/8": "a private network",
    "100.64.0.0/10": "a provider's inner network (CGNAT)",
    "127.0.0.0/8": "this machine (loopback)",
    "169.254.0.0/16": "a link-local network",
    "172.16.0.0/12": "a private network",
    "192.0.0.0/24": "reserved for protocols",
    "192.0.2.0/24": "reserved for documentation",
    "192.88.99.0/24": "reserved for 6to4",
    "192.168.0.0/16": "a private network",
    "198.18.0.0/15": "reserved for benchmarks",
    "198.51.100.0/24": "reserved for documentation",
    "203.0.113.0/24": "reserved for documentation",
    "224.0.0.0/4": "multicast",
    "255.255.255.255/32": "broadcast",
    "240.0.0.0/4": "reserved",
}
"""IANA's registry of special-purpose addresses of IPv4."""

_IPV6: Final = {
    "::/128": "this machine or network",
    "::1/128": "this machine (loopback)",
    "::/96": "an IPv4 address in an obsolete form",
    "64:ff9b:1::/48": "a local translation to IPv4",
    "100::/64": "discarded",
    "2001::/32": "a tunnel to IPv4 (Teredo)",
    "2001::/23": "reserved for protocols",
    "2001:db8::/32": "reserved for documentation",
    "2002::/16": "a tunnel to IPv4 (6to4)",
    "3fff::/20": "reserved for documentation",
    "5f00::/16": "reserved for segment routing",
    "fc00::/7": "a private network",
    "fe80::/10": "a link-local network",
    "fec0::/10": "a private network (site-local)",
    "ff00::/8": "multicast",
}
_GLOBAL_IPV6: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_REFUSED_IPV4: Final = {IPv4Network(text): why for text, why in _IPV4.items()}
_REFUSED_IPV6: Final = {IPv6Network(text): why for text, why in _IPV6.items()}


def not_public(address: IPv4Address | IPv6Address) -> str | None:
    """What an address is instead of public; None if it is public.

    IPv4 addresses inside IPv6 ones (mapped, or of a NAT64) count as themselves.
    """
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        if inner is not None:
            why = not_public(inner)
            return why and f"{why}, as {inner}"
        for network, why in _REFUSED_IPV6.items():
            if address in network:
                return why
        return None if address in _GLOBAL_IPV6 else "not assigned to the public internet"
    return next((why for network, why in _REFUSED_IPV4.items() if address in network), None)


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


class AllowedNetworks:
    """What a setting allows besides the public internet: host names, and networks or single addresses."""

    def __init__(self, stated: Iterable[str], setting: str) -> None:
        """Raises `SettingsError` that names `setting` for a text that is neither."""
        self._hosts: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for text in stated:
            try:
                self._networks.append(ip_network(text.strip().strip("[]")))
            except ValueError as fault:
                host = text.strip().lower().rstrip(".")
                if not host or not all(one.isalnum() or one in "-_." for one in host) or host[-1].isdigit():
                    raise SettingsError(
                        f"{setting}: {text!r} is neither a host name nor a network: {fault}",
                        "write wiki.example, 10.1.2.3 or 10.1.0.0/16",
                    ) from fault
                self._hosts.add(host)

    def refusal(self, host: str, address: str) -> str | None:
        """What keeps pages from being fetched from `host` at an address, which is an IP address; None if nothing does.

        `host` is in lower case.
        """
        found = ip_address(address)
        if host in self._hosts or any(found in network for network in self._networks):
            return None
        return not_public(found)
