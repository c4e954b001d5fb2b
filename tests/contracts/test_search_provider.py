"""The built-in search provider against its port's suite, and its guard around one that breaks its promises."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from corral.adapters.web.searxng import SearxngSearch
from corral.adapters.web.settings import SearxngSettings
from corral.core.errors import PluginError, SettingsError
from corral.core.ports.web import SearchProvider, SearchResult
from corral.core.web_errors import WebError
from corral.plugins.guarded_search import GuardedSearch
from corral.plugins.testing import SearchProviderContract
from corral.plugins.testing.fake_server import FakeServer
from corral.plugins.testing.fake_web_server import FakeWebServer

RESULTS = [
    {"url": f"https://example.org/{one}", "title": f"Corral {one}", "content": "A fence.", "engine": "x", "score": 1.5}
    for one in range(5)
]


class FakeSearxng(FakeWebServer):
    """A SearXNG that finds the same pages for every query."""

    def __init__(self) -> None:
        super().__init__()
        self.status, self.answer = 200, json.dumps({"query": "q", "results": RESULTS, "answers": []}).encode()

    def take_fault(self, method: str, path: str) -> Any:
        self.answers[path] = (self.status, self.answer, {"Content-Type": "application/json"})
        return super().take_fault(method, path)


@pytest.fixture
def server() -> Iterator[FakeSearxng]:
    with FakeSearxng() as server:
        yield server


def searxng(server: FakeServer, **settings: Any) -> SearxngSearch:
    return SearxngSearch(SearxngSettings(url=f"{server.url}/", **settings))


class TestSearxng(SearchProviderContract):
    """A SearXNG on this machine."""

    @pytest.fixture
    def provider(self, server: FakeSearxng) -> SearchProvider:
        return searxng(server)

    @pytest.fixture
    def query(self) -> str:
        return "corral"

    @pytest.fixture
    def unreachable(self) -> SearchProvider:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            return SearxngSearch(SearxngSettings(url=f"http://127.0.0.1:{taken.getsockname()[1]}"))


def test_searxng_gets_the_query_and_what_is_set(server: FakeSearxng) -> None:
    """Query, language, categories and safe search are in the address, and nothing about the user in the headers."""
    asyncio.run(searxng(server, language="de", categories="it", safe_search=2).search("kühe & kälber", 2))
    [seen] = server.seen
    assert seen.path == "/search?q=k%C3%BChe+%26+k%C3%A4lber&format=json&language=de&categories=it&safesearch=2"
    assert set(seen.headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_pages_without_an_address_are_left_out(server: FakeSearxng) -> None:
    """Whatever a SearXNG finds, results are pages of the web."""
    odd = [{"title": "x"}, {"url": None}, {"url": "javascript:alert(1)"}, {"url": "https://a.example", "title": None}]
    server.answer = json.dumps({"results": odd}).encode()
    assert asyncio.run(searxng(server).search("q", 5)) == (SearchResult(title="", url="https://a.example"),)


@pytest.mark.parametrize(
    ("status", "answer", "complaint"),
    [
        (403, b"", "add json to search.formats"),
        (429, b"", "its limiter is on"),
        (404, b"", "check search_providers.searxng.url"),
        (200, b"<html>", "did not answer as SearXNG does"),
        (200, b'{"results": 7}', "did not answer as SearXNG does"),
        (200, b'{"results": [' + b" " * (5 << 20) + b"]}", "is larger than"),
    ],
)
def test_a_searxng_that_refuses_or_is_none(server: FakeSearxng, status: int, answer: bytes, complaint: str) -> None:
    """The error says what to change."""
    server.status, server.answer = status, answer
    with pytest.raises(WebError) as caught:
        asyncio.run(searxng(server).search("q", 5))
    assert complaint in f"{caught.value.message}; {caught.value.remedy}"


def test_a_searxng_that_says_nothing(server: FakeSearxng) -> None:
    """A search ends in time."""
    server.fault("GET", "search", lambda connection: connection.state.released.wait(60))
    with pytest.raises(WebError, match=r"did not answer within 0\.05 s"):
        asyncio.run(searxng(server, timeout_s=0.05).search("q", 5))


@pytest.mark.parametrize(
    "url", ["", "localhost:8888", "ftp://x", "http://", "http://u:p@h", "http://h:99999", "http://ü"]
)
def test_an_address_of_no_searxng(url: str) -> None:
    """It is refused before anything is searched for."""
    with pytest.raises(SettingsError, match=r"search_providers\.searxng\.url"):
        SearxngSearch(SearxngSettings(url=url))


class _Broken:
    def __init__(self, result: object) -> None:
        self._result = result

    async def search(self, query: str, max_results: int) -> object:
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    async def aclose(self) -> None:
        raise ValueError("no")


@pytest.mark.parametrize(
    "result",
    [None, [], ("x",), (SearchResult(title=cast(str, 7), url="u"),), ValueError("boom"), SystemExit(3)],
)
def test_a_plugin_that_breaks_its_promise(result: object) -> None:
    """What it raises, or returns instead of results, becomes an error that names it."""
    guarded = GuardedSearch(_Broken(result), "the plugin p, x")
    with pytest.raises(PluginError, match="the plugin p, x: search"):
        asyncio.run(guarded.search("q", 1))
    with pytest.raises(PluginError, match="the plugin p, x: aclose"):
        asyncio.run(guarded.aclose())


def test_a_plugin_s_own_errors_pass() -> None:
    """An error of Corral says best what happened."""
    with pytest.raises(WebError, match="down"):
        asyncio.run(GuardedSearch(_Broken(WebError("down")), "p").search("q", 1))
