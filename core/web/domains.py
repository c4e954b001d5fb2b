"""Which pages of the web a search may find: those of some domains, or all but those of some."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from corral.core.ports.web import SearchResult

__all__ = ("DomainFilter",)


class DomainFilter:
    """Lets results through by the host of their address.

    A domain such as ``example.com`` includes those below it; ``example.com/blog`` means the addresses that begin so,
    and ``*`` in the path stands for anything. Without `allowed`, every domain is. Upper and lower case are the same in
    domains.
    """

    def __init__(self, allowed: Iterable[str] = (), blocked: Iterable[str] = ()) -> None:
        self._allowed = tuple(map(_parsed, allowed))
        self._blocked = tuple(map(_parsed, blocked))

    def __bool__(self) -> bool:
        return bool(self._allowed or self._blocked)

    def of(self, results: Iterable[SearchResult]) -> tuple[SearchResult, ...]:
        """Those of the results that are let through, in their order."""
        return tuple(result for result in results if self.lets(result.url))

    def lets(self, url: str) -> bool:
        """Whether a page with this address is let through. False for what is no address."""
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").lower().rstrip(".")
        except ValueError:
            return False
        if not host or any(_is_in(host, parts.path, one) for one in self._blocked):
            return False
        return not self._allowed or any(_is_in(host, parts.path, one) for one in self._allowed)


def _parsed(domain: str) -> tuple[str, str]:
    host, slash, path = domain.strip().rpartition("://")[2].partition("/")
    return host.lower().rstrip("."), slash + path


def _is_in(host: str, path: str, domain: tuple[str, str]) -> bool:
    own, own_path = domain
    if not own or not (host == own or host.endswith(f".{own}")):
        return False
    return fnmatchcase(path or "/", f"{_literal(own_path)}*") if own_path else True


def _literal(path: str) -> str:
    """The path as a pattern in which only ``*`` means something."""
    return path.replace("[", "[[]").replace("?", "[?]")
