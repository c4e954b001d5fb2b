"""A second dialect beside Ollama's, built only from what plugins can use."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import httpx
import msgspec
import pytest
from litestar import Router, get, post
from litestar.connection import Request

from corral.api.http import ApiError, Body, Dialect, read_json
from corral.api.http.errors import ErrorReply
from corral.core.errors import ModelNotFound


class ChatBody(Body, frozen=True, kw_only=True):
    """A struct with the same name as one of Ollama's."""

    wish: str = ""


class Letters(Dialect):
    """Errors as ``{"error": {"message": …, "code": …}}``."""

    name: ClassVar[str] = "letters"

    def body(self, problem: ApiError) -> bytes:
        return msgspec.json.encode({"error": {"message": problem.text, "code": problem.status}})


@post("/wish", opt={"body": ChatBody})
async def wish(request: Request[Any, Any, Any]) -> dict[str, str]:
    body = await read_json(request, ChatBody)
    if body.wish == "broken":
        raise RuntimeError("secret")
    raise ModelNotFound(f"no {body.wish}", "wish for another")


@get("/wish")
async def no_wish() -> dict[str, str]:
    return {}


@pytest.fixture
def client(start_server: Callable[..., Any]) -> Iterator[httpx.Client]:
    letters = Router(path="/letters", route_handlers=[wish, no_wish], opt={"dialect": Letters()})
    with start_server(routers=[letters]) as server, httpx.Client(base_url=server.url) as client:
        yield client


def test_each_path_gets_errors_in_its_own_envelope(client: httpx.Client) -> None:
    """Errors of ours, unforeseen ones, unknown paths, wrong verbs and bad bodies: all under the dialect's prefix."""

    def error(method: str, path: str, **given: Any) -> tuple[int, Any]:
        response = client.request(method, path, **given)
        return response.status_code, response.json()["error"]

    assert error("POST", "/letters/wish", json={"wish": "pony"}) == (
        404,
        {"message": "no pony; wish for another", "code": 404},
    )
    status, found = error("POST", "/letters/wish", json={"wish": "broken"})
    assert (status, found["code"]) == (500, 500)
    assert "secret" not in found["message"]
    assert error("GET", "/letters/nothing")[1]["code"] == 404
    assert error("PUT", "/letters/wish")[1]["code"] == 405
    assert error("POST", "/letters/wish", content=b"{")[1]["code"] == 400
    assert error("POST", "/api/chat", content=b"{")[1] == "unexpected EOF"
    assert client.get("/lettersx").text == "404 page not found"
    assert error("GET", "/letters/wish", headers={"origin": "https://elsewhere.example"})[1]["code"] == 403
    assert client.get("/api/tags", headers={"origin": "https://elsewhere.example"}).content == b""


def test_what_is_not_a_dialect(start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """A router whose dialect is something else, such as the class itself, is left out, and the log says why."""
    letters = Router(path="/letters", route_handlers=[wish, no_wish], opt={"dialect": Letters})
    with start_server(routers=[letters]) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/letters/wish").status_code == 404
    assert "skipping the routes under /letters: its dialect is <class" in caplog.text


class Broken(Letters):
    """Fails as a plugin may: by raising, or with what cannot be sent."""

    name: ClassVar[str] = "broken"

    def body(self, problem: ApiError) -> bytes:
        if problem.status == 404:
            raise SystemExit("no envelope left")
        return "a text" if problem.status == 400 else b"whatever"  # type: ignore[return-value]

    def wrong_method(self) -> ErrorReply:
        return ErrorReply(status=99, body=b"", media_type=None)


def test_a_dialect_that_fails(start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Its errors get Ollama's envelope, with the status that they have anyway, and the log says what is wrong."""
    broken = Router(path="/letters", route_handlers=[wish, no_wish], opt={"dialect": Broken()})
    with start_server(routers=[broken]) as server, httpx.Client(base_url=server.url) as client:
        known = client.post("/letters/wish", json={"wish": "pony"})
        assert (known.status_code, known.json()) == (404, {"error": "no pony"})
        malformed = client.post("/letters/wish", content=b"{")
        assert (malformed.status_code, malformed.json()) == (400, {"error": "unexpected EOF"})
        assert client.put("/letters/wish").status_code == 405
        foreign = client.get("/letters/wish", headers={"origin": "https://elsewhere.example"})
        assert (foreign.status_code, foreign.content) == (403, b"whatever")
    assert "the dialect of /letters/wish cannot answer an error: PluginError: raised SystemExit" in caplog.text
    assert "TypeError: it gave ErrorReply(status=400, body='a text'" in caplog.text
    assert "TypeError: it gave ErrorReply(status=99" in caplog.text


def test_errors_before_a_route_is_reached(client: httpx.Client) -> None:
    """A body or a head that is too large is refused in the envelope of the path that it was sent to."""

    def answer(request: bytes) -> bytes:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as sock:
            sock.sendall(request)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    huge = answer(b"POST /letters/wish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000000\r\n\r\n{}")
    assert huge.startswith(b"HTTP/1.1 413 ")
    assert b'"code":413' in huge
    twice = answer(b"GET /letters/wish HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
    assert twice.startswith(b"HTTP/1.1 400 ")
    assert b'{"error":{"message":"the request has more than one Host header","code":400}}' in twice


def test_schemas_of_one_name_do_not_collide(client: httpx.Client) -> None:
    """The structs of each dialect are in the API document under its name, those of Ollama under Ollama's names."""
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert list(schemas["letters.ChatBody"]["properties"]) == ["wish"]
    assert "messages" in schemas["ChatRequest"]["properties"]
    content = document["paths"]["/letters/wish"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/letters.ChatBody"}
