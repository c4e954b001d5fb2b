"""Attacks on the fetching of pages: each is refused with its reason, before anything reaches what it aims at."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpcore
import pytest

from corral.adapters.runners.jobs import ProcessJobs
from corral.adapters.web.page_fetcher import WebPageFetcher
from corral.adapters.web.settings import WebSettings
from corral.core.error_base import CorralError
from corral.core.ports.web import WebPage
from corral.core.web_errors import AddressRefused, WebError
from corral.plugins.testing.fake_web_server import FakeWebServer

PUBLIC = "93.184.215.14"
HTML = {"Content-Type": "text/html; charset=utf-8"}
LOOPBACK = r"not on the public internet but this machine \(loopback\)"
PRIVATE = "not on the public internet but a private network"

NAMES = {
    "public.example": [PUBLIC],
    "mixed.example": [PUBLIC, "10.0.0.1"],
    "inside.example": ["192.168.1.10"],
    "loop.example": ["127.0.0.1"],
    "loop6.example": ["::1"],
    "metadata.example": ["169.254.169.254"],
    "zone.example": ["fe80::1%eth0"],
    "nobody.example": [],
    "localhost": ["127.0.0.1", "::1"],
}


class Sockets(httpcore.AsyncNetworkBackend):
    """Connections to the public address lead to the fake server; `dialled` has every address that was connected to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._real = httpcore.AnyIOBackend()
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *rest: Any, **named: Any) -> httpcore.AsyncNetworkStream:
        self.dialled.append((host, port))
        return await self._real.connect_tcp("127.0.0.1", self._port)


class World:
    """A fetcher with names of its own, in front of a real server."""

    def __init__(self, server: FakeWebServer) -> None:
        self.server = server
        self.sockets = Sockets(int(server.host.rpartition(":")[2]))
        self.names: dict[str, list[Sequence[str]]] = {host: [addresses] for host, addresses in NAMES.items()}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The next addresses of a name; the last ones stay. An address stands for itself."""
        answers = self.names.get(host, [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def fetch(self, url: str, **settings: Any) -> WebPage:
        fetcher = WebPageFetcher(WebSettings(**settings), ProcessJobs(), resolve=self.resolve, sockets=self.sockets)
        return asyncio.run(fetcher.fetch(url))

    def serve(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        self.server.answers[path] = (200, body, headers)


@pytest.fixture
def world() -> Iterator[World]:
    with FakeWebServer() as server:
        yield World(server)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1/", LOOPBACK),
        ("http://localhost/", LOOPBACK),
        ("http://LOCALHOST./", LOOPBACK),
        ("http://127.1/", "a number in a form"),
        ("http://2130706433/", "a number in a form"),
        ("http://0x7f000001/", "a number in a form"),
        ("http://0x7f.1/", "a number in a form"),
        ("http://0177.0.0.1/", "a number in a form"),
        ("http://127.0.0.01/", "a number in a form"),
        ("http://1.1.1.1.1/", "a number in a form"),
        ("http://１２７.０.０.１/", LOOPBACK),
        ("http://127。0。0。1/", LOOPBACK),
        ("http://%31%32%37.0.0.1/", "not the name of a host"),
        ("http://0.0.0.0/", "this machine or network"),
        ("http://10.0.0.1/", PRIVATE),
        ("http://172.16.0.1/", PRIVATE),
        ("http://192.168.0.1/", PRIVATE),
        ("http://100.64.0.1/", "CGNAT"),
        ("http://169.254.169.254/latest/meta-data/", "a link-local network"),
        ("http://198.18.0.1/", "benchmarks"),
        ("http://224.0.0.1/", "multicast"),
        ("http://255.255.255.255/", "broadcast"),
        ("http://240.0.0.1/", "reserved"),
        ("http://[::1]/", LOOPBACK),
        ("http://[::]/", "this machine or network"),
        ("http://[::ffff:127.0.0.1]/", r"loopback\), as 127\.0\.0\.1"),
        ("http://[::ffff:7f00:1]/", r"loopback\), as 127\.0\.0\.1"),
        ("http://[::ffff:a00:1]/", r"a private network, as 10\.0\.0\.1"),
        ("http://[::127.0.0.1]/", "obsolete form"),
        ("http://[2002:7f00:1::]/", "6to4"),
        ("http://[2001:0:7f00:1::]/", "Teredo"),
        ("http://[64:ff9b::7f00:1]/", r"loopback\), as 127\.0\.0\.1"),
        ("http://[64:ff9b:1::1]/", "a local translation to IPv4"),
        ("http://[fe80::1]/", "a link-local network"),
        ("http://[fe80::1%25eth0]/", "not an IPv6 address"),
        ("http://[fc00::1]/", PRIVATE),
        ("http://[fec0::1]/", "site-local"),
        ("http://[ff02::1]/", "multicast"),
        ("http://[2001:db8::1]/", "documentation"),
        ("http://[4000::1]/", "not assigned"),
        ("http://[::1]evil.example/", "not an"),
        ("http://inside.example/", "inside.example is at 192.168.1.10, which is not on the public internet"),
        ("http://mixed.example/", r"mixed.example is at 10\.0\.0\.1"),
        ("http://loop6.example/", LOOPBACK),
        ("http://metadata.example/", "a link-local network"),
        ("http://zone.example/", "which is not fetched from|link-local"),
        ("http://user:secret@public.example/", "must not contain a login"),
        ("http://public.example@127.0.0.1/", "must not contain a login"),
        ("http://public.example\\@127.0.0.1/", "a backslash or a control character"),
        ("http://public.example\r\nHost: x/", "a backslash or a control character"),
        ("http://public.example:22/", "not fetched from port 22"),
        ("http://public.example:6379/", "not fetched from port 6379"),
        ("http://public.example:99999/", "not an address"),
        ("http://public.example:80:81/", "not an address"),
        ("file:///etc/passwd", "addresses of file: are not fetched"),
        ("FILE:/etc/passwd", "addresses of file: are not fetched"),
        ("ftp://public.example/x", "addresses of ftp: are not fetched"),
        ("data:text/html,hello", "addresses of data: are not fetched"),
        ("gopher://127.0.0.1:6379/_INFO", "addresses of gopher: are not fetched"),
        ("javascript:alert(1)", "addresses of javascript: are not fetched"),
        ("http:///etc/passwd", "names no host"),
        ("http://a..b/", "not the name of a host"),
        ("http://exa mple/", "not the name of a host"),
        ("http://" + "a" * 300 + ".example/", "not the name of a host"),
        ("http://public.example/" + "a" * 9000, "characters"),
    ],
)
def test_an_address_that_is_refused(world: World, url: str, reason: str) -> None:
    """Nothing is connected to."""
    with pytest.raises(AddressRefused, match=reason):
        world.fetch(url)
    assert world.sockets.dialled == []


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1/admin", LOOPBACK),
        ("//localhost/", LOOPBACK),
        ("http://inside.example/", PRIVATE),
        ("http://[::ffff:10.0.0.1]/", PRIVATE),
        ("http://2130706433/", "a number in a form"),
        ("file:///etc/passwd", "addresses of file: are not fetched"),
        ("http://u:p@public.example/", "must not contain a login"),
        ("http://public.example:25/", "not fetched from port 25"),
        ("/next\\..", "redirects to what is not an address"),
    ],
)
def test_a_redirect_that_is_refused(world: World, location: str, reason: str) -> None:
    """Only the page that redirects is asked for."""
    world.server.redirect("/", location)
    with pytest.raises(AddressRefused, match=reason):
        world.fetch("http://public.example/")
    assert world.sockets.dialled == [(PUBLIC, 80)]


def test_a_name_that_moves_between_two_requests(world: World) -> None:
    """DNS rebinding: the second request of a redirect resolves the name again, and is refused."""
    world.names["public.example"] = [[PUBLIC], ["127.0.0.1"]]
    world.server.redirect("/", "http://public.example/admin")
    with pytest.raises(AddressRefused, match=LOOPBACK):
        world.fetch("http://public.example/")
    assert [seen.path for seen in world.server.seen] == ["/"]


def test_a_name_that_moves_after_it_was_checked(world: World) -> None:
    """A name is resolved once for a connection, which is made to the address that was checked."""
    world.names["public.example"] = [[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]]
    world.serve("/", b"<p>here", HTML)
    assert world.fetch("http://public.example/").content == "here"
    assert world.sockets.dialled == [(PUBLIC, 80)]
    assert world.server.seen[0].headers["host"] == "public.example"


def _bomb(window: int) -> bytes:
    packer = zlib.compressobj(9, wbits=window)
    return packer.compress(b"\0" * 20_000_000) + packer.flush()


def _endless(connection: Any) -> None:
    connection.send_response(200)
    connection.send_header("Content-Type", "text/plain")
    connection.end_headers()
    with_errors = (OSError, ValueError)
    try:
        while not connection.state.released.is_set():
            connection.wfile.write(b"x" * 65536)
    except with_errors:
        connection.hang_up()


def _silent(connection: Any) -> None:
    connection.state.released.wait(60)
    connection.hang_up()


def _dripping(connection: Any) -> None:
    connection.send_response(200)
    connection.send_header("Content-Type", "text/plain")
    connection.end_headers()
    try:
        while not connection.state.released.wait(0.01):
            connection.wfile.write(b"x")
            connection.wfile.flush()
    except OSError:
        connection.hang_up()


def _long_head(connection: Any) -> None:
    connection.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 300_000)
    connection.wfile.flush()
    connection.hang_up()


@pytest.mark.parametrize(
    ("do", "reason", "settings"),
    [
        (_endless, "is larger than 65536 bytes", {"max_page_bytes": 65536}),
        (_silent, "was not there after 0.1 s", {"timeout_s": 0.1}),
        (_dripping, "was not there after 0.3 s", {"timeout_s": 0.3}),
        (_long_head, "broke off", {}),
        (lambda connection: connection.hang_up(), "broke off", {}),
        (lambda connection: connection.wfile.write(b"SSH-2.0-x\r\n\r\n"), "broke off", {}),
    ],
    ids=["endless", "silent", "dripping", "long head", "nothing", "another protocol"],
)
def test_a_server_that_does_not_end(
    world: World, do: Callable[[Any], None], reason: str, settings: dict[str, Any]
) -> None:
    """Size and time are limited, whatever the server does."""
    world.server.fault("GET", "/", do)
    with pytest.raises(WebError, match=reason):
        world.fetch("http://public.example/", **settings)


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (_bomb(31), {**HTML, "Content-Encoding": "gzip"}, "grows to more than|is larger than"),
        (_bomb(15), {**HTML, "Content-Encoding": "deflate"}, "grows to more than|is larger than"),
        (_bomb(-15), {**HTML, "Content-Encoding": "deflate"}, "grows to more than|is larger than"),
        (gzip.compress(_bomb(31)), {**HTML, "Content-Encoding": "gzip, gzip"}, "is packed as 'gzip, gzip'"),
        (b"x", {**HTML, "Content-Encoding": "br"}, "is packed as 'br'"),
        (b"not packed", {**HTML, "Content-Encoding": "gzip"}, "cannot be unpacked"),
        (gzip.compress(b"x" * 999)[:-9], {**HTML, "Content-Encoding": "gzip"}, "breaks off"),
        (b"", {**HTML, "Content-Length": "99999999999999999999"}, "is larger than|broke off"),
        (b"%PDF-1.7", {"Content-Type": "application/pdf"}, "is application/pdf, not a page"),
        (b"\x89PNG", {"Content-Type": "image/png"}, "is image/png, not a page"),
        (b"PK", {"Content-Type": "application/octet-stream"}, "not a page"),
    ],
)
def test_a_body_that_is_refused(world: World, body: bytes, headers: dict[str, str], reason: str) -> None:
    """Bombs, foreign packings and what is no text."""
    world.serve("/", body, headers)
    with pytest.raises(WebError, match=reason):
        world.fetch("http://public.example/")


def test_redirects_end(world: World) -> None:
    """A page that redirects to itself is given up."""
    world.server.redirect("/", "/")
    with pytest.raises(WebError, match="redirects more than 3 times"):
        world.fetch("http://public.example/", max_redirects=3)
    assert len(world.server.seen) == 4


def test_markup_that_takes_too_long_to_parse(world: World) -> None:
    """Parsing has a process of its own, which is ended with the time for the page."""
    world.serve("/", b"<div>" * 900_000, HTML)
    with pytest.raises(WebError, match="was not there after 1 s"):
        world.fetch("http://public.example/", timeout_s=1.0)


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("http://inside.example/", ["inside.example"]),
        ("http://inside.example/", ["192.168.0.0/16"]),
        ("http://192.168.1.10/", ["192.168.1.10"]),
        ("http://[fd00::7]/", ["fd00::/8"]),
    ],
)
def test_what_a_setting_allows(world: World, url: str, allow: list[str]) -> None:
    """A host or a network inside is fetched from if the setting names it, and others still are not."""
    world.serve("/", b"hello", {"Content-Type": "text/plain"})
    assert world.fetch(url, allow=tuple(allow)).content == "hello"
    with pytest.raises(CorralError):
        world.fetch("http://loop.example/", allow=tuple(allow))


def test_a_name_without_an_address(world: World) -> None:
    """That is no attack, but a host that does not exist."""
    with pytest.raises(WebError, match=r"there is no host nobody\.example"):
        world.fetch("http://nobody.example/")
