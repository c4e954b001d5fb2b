"""OpenAI's tool that searches the web: what a request says of it, and what of its results an answer cites."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from corral.api.http.errors import ApiError
from corral.api.http.openai.responses.replies import UrlCitation, WebSearchResult
from corral.core.generation.web_search import WebSearch
from corral.core.ports.web import SearchResult

__all__ = ("cited", "found_in", "is_web_search", "read_web_search", "results_of")

_TYPE = re.compile(r"web_search(_preview)?(_\d{4}_\d{2}_\d{2})?")
_RESULTS: Mapping[str, int] = {"low": 3, "medium": 5, "high": 10}
"""How many results a search has, by the size of the context that the client wants."""

_MOST_CITATIONS = 64


def is_web_search(tool: Any) -> bool:
    """Whether a tool of a request is the one that searches, of any version."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and _TYPE.fullmatch(kind) is not None


def read_web_search(tools: Sequence[Mapping[str, Any]], most_calls: int | None) -> WebSearch | None:
    """How the model may search, `most_calls` times at most; None if the request does not offer it.

    Raises `ApiError` 400.
    """
    found = [(place, tool) for place, tool in enumerate(tools) if is_web_search(tool)]
    if not found:
        return None
    place, tool = found[-1]
    at = f"tools[{place}]"
    if len(found) > 1:
        raise ApiError(400, f"{at}: the web is searched by one tool; omit the others", param=at)
    if tool.get("external_web_access") is False:
        text = f"{at}.external_web_access: nothing is searched without access to the web; omit the tool"
        raise ApiError(400, text, param=at)
    size = tool.get("search_context_size") or "medium"
    if not isinstance(size, str) or size not in _RESULTS:
        raise ApiError(400, f'{at}.search_context_size must be "low", "medium" or "high"', param=at)
    filters = tool.get("filters") or {}
    allowed = (filters.get("allowed_domains") or []) if isinstance(filters, dict) else None
    if not isinstance(allowed, list) or not all(isinstance(one, str) and one.strip() for one in allowed):
        raise ApiError(400, f"{at}.filters.allowed_domains is not a list of domains", param=at)
    return WebSearch(max_uses=most_calls, allowed_domains=tuple(allowed), max_results=_RESULTS[size])


def results_of(found: Iterable[SearchResult]) -> tuple[WebSearchResult, ...]:
    """The results as an item has them."""
    return tuple(WebSearchResult(url=one.url, title=one.title, text=one.content) for one in found)


def found_in(item: Mapping[str, Any]) -> tuple[SearchResult, ...] | None:
    """The results in an item that comes back; None if it has none."""
    results = item.get("results")
    if not isinstance(results, list):
        return None
    return tuple(
        SearchResult(**{own: str(one.get(name) or "") for own, name in _FIELDS})
        for one in results
        if isinstance(one, dict)
    )


_FIELDS = (("url", "url"), ("title", "title"), ("content", "text"))


def cited(text: str, results: Iterable[WebSearchResult]) -> tuple[UrlCitation, ...]:
    """Where a text names the addresses of results, in order. A link in Markdown counts as a whole."""
    found = sorted(_places(text, results), key=lambda one: (one.start_index, -one.end_index))
    kept: list[UrlCitation] = []
    for one in found:
        if not kept or one.start_index >= kept[-1].end_index:  # an address may begin like a longer one
            kept.append(one)
    return tuple(kept[:_MOST_CITATIONS])


def _places(text: str, results: Iterable[WebSearchResult]) -> Iterator[UrlCitation]:
    for result in {one.url: one for one in results}.values():
        at, end = (text.find(result.url) if result.url else -1), 0
        while at >= 0:
            seen, start, end = end, at, at + len(result.url)
            if at >= 2 and text.startswith("](", at - 2) and text.startswith(")", end):
                opening = text.rfind("[", seen, at)  # not before the last place: the whole text is read but once
                start, end = (at, end) if opening < 0 else (opening, end + 1)
            yield UrlCitation(start_index=start, end_index=end, title=result.title, url=result.url)
            at = text.find(result.url, end)
