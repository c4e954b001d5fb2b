"""Lists the tags of a repository, and the repositories of a registry, page by page."""

from __future__ import annotations

import msgspec

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.exchange import RegistryExchange, pull_scope
from corral.adapters.registries.oci.header_values import next_link
from corral.core.errors import SourceError, SourceUnavailable, Unsupported
from corral.core.malformed import MALFORMED

__all__ = ("list_repositories", "list_tags")

_PAGE = 1000
_MOST_PAGES = 1000
_PAGE_BYTES = 16 * 1024 * 1024
_MOST_BYTES = 128 * 1024 * 1024  # of all pages
_REMEDY = "name the repositories of your models in stores.oci.repositories"


class _Page(msgspec.Struct):
    tags: list[str] | None = None
    repositories: list[str] | None = None


async def list_tags(exchange: RegistryExchange, place: Place) -> tuple[str, ...]:
    """Raises `NotFound` if there is no such repository."""
    pages = await _pages(exchange, place, f"/v2/{place.repository}/tags/list?n={_PAGE}", pull_scope(place))
    return tuple(tag for page in pages for tag in page.tags or ())


async def list_repositories(exchange: RegistryExchange, place: Place) -> tuple[str, ...]:
    """Raises `Unsupported` if the registry has no catalog, or does not show it to us."""
    try:
        pages = await _pages(exchange, place, f"/v2/_catalog?n={_PAGE}", "registry:catalog:*")
    except SourceUnavailable:
        raise
    except SourceError as fault:  # such as no token for this
        raise Unsupported(f"{place.host} does not list its repositories: {fault.message}", _REMEDY) from fault
    return tuple(name for page in pages for name in page.repositories or ())


async def _pages(exchange: RegistryExchange, place: Place, path: str, scope: str) -> list[_Page]:
    pages: list[_Page] = []
    left_bytes = _MOST_BYTES
    while len(pages) < _MOST_PAGES and left_bytes > 0:
        answer = await exchange.send(place, "GET", path, (scope,), follow=True)
        try:
            if not place.repository and answer.status in (401, 403, 404, 405, 501):
                login = f", or corral login {place.host}" if answer.status in (401, 403) else ""
                raise Unsupported(f"{place.host} does not list its repositories ({answer.status})", f"{_REMEDY}{login}")
            if answer.status != 200:
                raise await exchange.refused(answer, place, f"'{place.host}/{place.repository}'")
            body = await answer.beginning(_PAGE_BYTES)
            left_bytes -= len(body)
        finally:
            await answer.aclose()
        try:
            pages.append(msgspec.json.decode(body, type=_Page))
        except MALFORMED as fault:
            raise SourceError(f"{place.host} does not list what it has as JSON: {fault}") from fault
        following = next_link(", ".join(answer.header_values("link")))
        if following is None:
            return pages
        path = exchange.resolved(await exchange.base(place), answer.url, following)
    raise SourceError(f"{place.host} lists without end")
