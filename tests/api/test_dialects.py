"""A second dialect beside Ollama's, built only from what plugins can use."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import httpx
import msgspec
import pytest
from litestar import Router, get, post
from litestar.connection import Request

from corral.api.http import ApiError, Body, Dialect, read_json
from corral.api.http.dialects import Dialects
from corral.api.http.errors import ErrorReply
from corral.api.http.model_listing import ListingDialect
from corral.core.errors import ModelNotFound
from corral.core.models.model import StoredModel


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
    if body.wish == "slowly":
        raise ApiError(429, "too many", code="rate_limit_exceeded", param="wish", headers={"Retry-After": "7"})
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


class Callers(ListingDialect):
    """A second API that lists models at ``/v1/models``, for those who send the header ``x-letters``."""

    name: ClassVar[str] = "callers"
    claims: ClassVar[dict[str, str]] = {"/v1/models": "X-Letters"}

    def body(self, problem: ApiError) -> bytes:
        return msgspec.json.encode({"letters": problem.text, "code": problem.code, "param": problem.param})

    def model_list(self, records: Sequence[StoredModel]) -> bytes:
        return msgspec.json.encode([record.name.short for record in records])

    def model(self, record: StoredModel, typed: str) -> bytes:
        return msgspec.json.encode({"the": typed})


def test_a_shared_path_answers_in_the_shape_of_the_caller(start_server: Callable[..., Any]) -> None:
    """Models and errors at ``/v1/models`` have the shape of the API whose header the client sends, else OpenAI's."""
    callers = Router(path="/letters", route_handlers=[wish], opt={"dialect": Callers()})
    with start_server(routers=[callers]) as server, httpx.Client(base_url=server.url) as client:
        mine = {"x-letters": "1"}
        assert set(client.get("/v1/models", headers=mine).json()) == {"smol:q4", "other:latest", "embedder:latest"}
        assert client.get("/v1/models/smol:q4", headers=mine).json() == {"the": "smol:q4"}
        assert client.get("/v1/models/nobody/none", headers=mine).json()["code"] == "model_not_found"
        assert client.get("/v1/models/smol:q4").json()["object"] == "model"
        assert client.get("/v1/models/none").json()["error"]["code"] == "model_not_found"
        assert client.put("/v1/models", headers=mine).json()["letters"]
        assert client.get("/v1/modelsx", headers=mine).json()["error"]["code"] == "unknown_url"


def test_what_an_error_tells_programs(start_server: Callable[..., Any]) -> None:
    """Code, field and headers of an error reach the client, whichever dialect answers."""
    callers = Router(path="/letters", route_handlers=[wish], opt={"dialect": Callers()})
    plain = Router(path="/plain", route_handlers=[wish])
    with start_server(routers=[callers, plain]) as server, httpx.Client(base_url=server.url) as client:
        own = client.post("/letters/wish", json={"wish": "slowly"})
        assert (own.status_code, own.headers["retry-after"]) == (429, "7")
        assert own.json() == {"letters": "too many", "code": "rate_limit_exceeded", "param": "wish"}
        other = client.post("/plain/wish", json={"wish": "slowly"})
        assert (other.headers["retry-after"], other.json()) == ("7", {"error": "too many"})


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

    def unknown_path(self) -> ErrorReply:
        return ErrorReply(status=404, body=b"", media_type=None, headers={"x": "1\r\nset-cookie: 2"})


def test_a_dialect_that_fails(start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Its errors get Ollama's envelope, with the status that they have anyway, and the log says what is wrong."""
    broken = Router(path="/letters", route_handlers=[wish, no_wish], opt={"dialect": Broken()})
    with start_server(routers=[broken]) as server, httpx.Client(base_url=server.url) as client:
        known = client.post("/letters/wish", json={"wish": "pony"})
        assert (known.status_code, known.json()) == (404, {"error": "no pony"})
        malformed = client.post("/letters/wish", content=b"{")
        assert (malformed.status_code, malformed.json()) == (400, {"error": "unexpected EOF"})
        assert client.put("/letters/wish").status_code == 405
        assert client.get("/letters/nothing").text == "404 page not found"
        foreign = client.get("/letters/wish", headers={"origin": "https://elsewhere.example"})
        assert (foreign.status_code, foreign.content) == (403, b"whatever")
    assert "the dialect of /letters/wish cannot answer an error: PluginError: raised SystemExit" in caplog.text
    assert "TypeError: it gave ErrorReply(status=400, body='a text'" in caplog.text
    assert "TypeError: it gave ErrorReply(status=99" in caplog.text


def test_errors_before_a_route_is_reached(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body or a head that is too large is refused in the envelope of the path that it was sent to."""
    monkeypatch.setattr("corral.api.http.body._LINGER_S", 0.1)

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


def test_the_header_of_ids_is_one() -> None:
    """A dialect whose header could not be sent is refused when its routes are added."""

    class Loud(Letters):
        request_id_header: ClassVar[str] = "X-Id"

    with pytest.raises(ValueError, match="not the name of a header in lower case: 'X-Id'"):
        Dialects(Letters()).add("/loud", Loud())
