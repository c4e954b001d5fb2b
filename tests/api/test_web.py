"""Searching and fetching through the server: Ollama's shapes, its refusals, and its own client."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from corral.core.ports.web import SearchResult, WebPage
from corral.core.web.access import WebAccess
from corral.core.web_errors import AddressRefused, WebError

DOC = (Path(__file__).parents[2] / "docs" / "web.md").read_text(encoding="utf-8")


class _Provider:
    async def search(self, query: str, max_results: int) -> tuple[SearchResult, ...]:
        if query == "down":
            raise WebError("SearXNG cannot be reached", "start it")
        return tuple(SearchResult(title=query, url=f"https://a.example/{n}") for n in range(max_results))

    async def aclose(self) -> None:
        pass


class _Fetcher:
    """`running` pages are being fetched."""

    running = 0

    async def fetch(self, url: str) -> WebPage:
        if "slow" in url:
            self.running += 1
            try:
                await asyncio.sleep(60)
            finally:
                self.running -= 1
        if "127" in url:
            raise AddressRefused("127.0.0.1 is not on the public internet")
        return WebPage(url=url, title="T", content="text", links=("https://b.example/",))


FETCHER = _Fetcher()


@pytest.fixture(scope="module")
def web_url(start_server: Any) -> Iterator[str]:
    with start_server(web=WebAccess(_Provider(), FETCHER)) as server:
        yield server.url


@pytest.mark.parametrize("prefix", ["/api/", "/api/experimental/"])
def test_search_and_fetch(web_url: str, prefix: str) -> None:
    """Both paths answer in Ollama's shapes."""
    found = httpx.post(f"{web_url}{prefix}web_search", json={"query": "q", "max_results": 1})
    assert found.json() == {"results": [{"title": "q", "url": "https://a.example/0", "content": ""}]}
    page = httpx.post(f"{web_url}{prefix}web_fetch", json={"url": "a.example"})
    assert page.json() == {"title": "T", "content": "text", "links": ["https://b.example/"]}


@pytest.mark.parametrize(
    ("route", "body", "status", "text"),
    [
        ("web_search", {}, 400, "query is required"),
        ("web_search", {"query": "down"}, 502, "SearXNG cannot be reached; start it"),
        ("web_search", {"query": "q", "max_results": -1}, 400, "max_results is -1"),
        ("web_fetch", {}, 400, "url is required"),
        ("web_fetch", {"url": "http://127.0.0.1"}, 400, "not on the public internet"),
        ("web_fetch", None, 400, "missing request body"),
    ],
)
def test_what_fails(web_url: str, route: str, body: Any, status: int, text: str) -> None:
    """Status and reason reach the client."""
    content = b"" if body is None else msgspec.json.encode(body)
    answer = httpx.post(f"{web_url}/api/{route}", content=content)
    assert answer.status_code == status
    assert text in answer.json()["error"]


@pytest.mark.parametrize("prefix", ["/api/", "/api/experimental/"])
def test_nothing_is_contacted_by_default(shared_server: Any, prefix: str) -> None:
    """Ollama's text of a server without its cloud."""
    for route, what, body in (("web_search", "search", {"query": "q"}), ("web_fetch", "fetch", {"url": "a.example"})):
        answer = httpx.post(f"{shared_server.url}{prefix}{route}", json=body)
        assert (answer.status_code, answer.json()) == (
            403,
            {"error": f"ollama cloud is disabled: web {what} is unavailable"},
        )


def test_ollama_s_own_client(web_url: str) -> None:
    """The example of docs/web.md: the unmodified client's calls reach Corral."""
    [example] = re.findall(r"```python\n(.*?)```", DOC, flags=re.DOTALL)
    made: dict[str, Any] = {}
    exec(example.replace("http://127.0.0.1:11434", web_url), made)
    with made["client"] as client:
        found = client.web_search("q", max_results=2).results
        assert [one.url for one in found] == ["https://a.example/0", "https://a.example/1"]
        assert client.web_fetch("https://a.example").content == "text"


def test_a_client_that_leaves(web_url: str, within: Callable[[float, Callable[[], bool]], bool]) -> None:
    """Its page is no longer fetched."""
    url = httpx.URL(web_url)
    body = b'{"url": "https://slow.example"}'
    with socket.create_connection((url.host, url.port or 0), timeout=30) as connection:
        head = f"POST /api/web_fetch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert within(30, lambda: FETCHER.running == 1)
    assert within(30, lambda: FETCHER.running == 0)
