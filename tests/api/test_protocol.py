"""What holds on every route: unknown paths, origins, hosts, body limits, plugins' routers, the log."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, Literal
from unittest.mock import Mock

import httpx
import msgspec
import pytest
from litestar import Router, get

from corral.adapters.engines.fake import SPEC as FAKE
from corral.adapters.engines.fake import FakeLoadOptions
from corral.api.http import openapi
from corral.api.http.app import create_app

MODEL = "smol:q4"


class CachedOptions(FakeLoadOptions, frozen=True, kw_only=True):
    kv_cache_type: Literal["f16"] = "f16"


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("POST", "/api"), ("GET", "/api/tags/x")])
def test_unknown_paths_are_404_in_plain_text(client: httpx.Client, method: str, path: str) -> None:
    """An unknown path has Ollama's router's text."""
    response = client.request(method, path)
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/chat"), ("POST", "/api/tags"), ("POST", "/api/delete")])
def test_wrong_verbs_are_405_in_plain_text(client: httpx.Client, method: str, path: str) -> None:
    """A known path with the wrong verb has Ollama's router's text."""
    response = client.request(method, path)
    assert (response.status_code, response.text) == (405, "405 method not allowed")
    assert response.headers["content-type"].startswith("text/plain")


def test_content_type_is_not_looked_at(client: httpx.Client) -> None:
    """``curl -d`` sends JSON as a form."""
    response = client.post(
        "/api/show",
        content=b'{"model": "smol:q4"}',
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert response.status_code == 200


def test_local_pages_may_ask_and_others_may_not(client: httpx.Client) -> None:
    """An allowed origin is echoed, its preflight answered, and pages see all headers of answers, of errors as well; a
    foreign one is 403 without a body.
    """
    allowed = client.get("/api/version", headers={"origin": "http://localhost:3000"})
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:3000"
    unknown = client.get("/v1/models/nope", headers={"origin": "http://localhost:3000"})
    assert [one.headers.get("access-control-expose-headers") for one in (allowed, unknown)] == ["*", "*"]
    preflight = client.options("/api/chat", headers={"origin": "http://localhost:3000"})
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "x-stainless-retry-count" in preflight.headers["access-control-allow-headers"]
    foreign = client.get("/api/version", headers={"origin": "http://example.com"})
    assert (foreign.status_code, foreign.content) == (403, b"")
    assert not [name for name in foreign.headers if name.startswith("access-control")]
    assert client.options("/api/chat").status_code == 204


def test_a_rebound_name_is_kept_out(client: httpx.Client) -> None:
    """A page whose name was pointed at this machine gets no answer, even for its own origin."""
    headers = {"host": "evil.example.com", "origin": "http://evil.example.com"}
    response = client.get("/api/tags", headers=headers)
    assert (response.status_code, response.content) == (403, b"")


def test_origins_of_the_settings_may_ask(start_server: Callable[..., Any]) -> None:
    """An origin named in the settings is accepted."""
    with start_server(origins=("https://chat.example.com",)) as server:
        response = httpx.get(f"{server.url}/", headers={"origin": "https://chat.example.com"})
        assert (response.status_code, response.headers["vary"]) == (200, "Origin")


def test_a_body_over_the_limit_is_413_and_not_read(start_server: Callable[..., Any]) -> None:
    """An announced body of ten gigabytes is refused at once; one of unknown size as soon as it is too big."""
    with start_server(max_body_bytes=10_000) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n{")
            head = connection.recv(4096)
            assert head.startswith(b"HTTP/1.1 413")
            assert b"connection: close" in head.lower()

        def chunks() -> Any:
            for _ in range(100):
                yield b" " * 1000

        response = httpx.post(f"{server.url}/api/chat", content=chunks(), timeout=60)
        assert response.status_code == 413
        assert response.json() == {"error": "the request body is larger than the limit of 10000 bytes"}
        assert httpx.get(f"{server.url}/").status_code == 200


def test_a_plugin_s_router_is_served_and_its_errors_have_the_envelope(start_server: Callable[..., Any]) -> None:
    """Routes of plugins are mounted; what they raise becomes a 500 in the envelope; a router whose path is taken is
    left out.
    """

    @get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "there"}

    @get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret")

    @get("/version")
    async def taken() -> None: ...

    routers = [Router(path="/x", route_handlers=[hello, broken]), Router(path="/api", route_handlers=[taken])]
    with start_server(routers=routers) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/x/hello").json() == {"hello": "there"}
        response = client.get("/x/broken")
        assert response.status_code == 500
        assert response.json() == {"error": "internal server error; the server's log has the details"}
        assert client.get("/api/version").json()["corral"] == "9.9.9"
        assert "/x/hello" in client.get("/openapi.json").json()["paths"]


def test_the_api_document_names_routes_and_shapes(client: httpx.Client) -> None:
    """``/openapi.json`` has every route with its bodies, and no documentation page exists."""
    document = client.get("/openapi.json").json()
    assert document["paths"]["/api/chat"]["post"]["requestBody"]["required"]
    assert "ChatRequest" in document["components"]["schemas"]
    assert "ChatResponse" in document["components"]["schemas"]
    for page in ("/schema", "/docs", "/schema/swagger"):
        assert client.get(page).status_code == 404


def test_the_api_document_is_made_once(start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The document is built once: building it blocks all other requests for milliseconds."""
    made = Mock(side_effect=openapi._document)
    monkeypatch.setattr(openapi, "_document", made)
    with start_server() as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/openapi.json").content == client.get("/openapi.json").content
    assert made.call_count == 1


def test_one_line_is_logged_per_request_and_no_prompt(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, within: Callable[..., bool]
) -> None:
    """The log has status, model, tokens and time, and never the prompt."""
    with caplog.at_level(logging.INFO, "corral.http"):
        client.post("/api/generate", json={"model": MODEL, "prompt": "my secret", "stream": False})
        client.get("/nowhere")
        assert within(30, lambda: "404 GET /nowhere" in caplog.text)  # the log comes after the answer
    records = [record for record in caplog.records if hasattr(record, "http")]
    fields = records[0].http
    assert (fields["status"], fields["model"], fields["path"]) == (200, MODEL, "/api/generate")
    assert fields["tokens"] > 0
    assert fields["ms"] > 0
    assert records[0].getMessage().startswith(f"200 POST /api/generate model={MODEL} prompt_tokens=")
    assert records[1].http["status"] == 404
    assert "secret" not in caplog.text


def test_the_log_says_why_a_model_was_not_loaded(
    start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture, within: Callable[..., bool]
) -> None:
    """An option that is refused and a load that fails have their reason in the line, without the prompt."""
    with caplog.at_level(logging.INFO, "corral.http"), start_server({"fail_on_load": "bad weights"}) as server:
        body = {"model": MODEL, "prompt": "my secret"}
        for options in ({}, {"top_k": 1 << 40}):
            httpx.post(f"{server.url}/api/generate", json={**body, "options": options})
        assert within(30, lambda: len(caplog.messages) == 2)
    assert "error=" in caplog.messages[0]
    assert "bad weights" in caplog.messages[0]
    assert f'400 POST /api/generate model={MODEL} error=option "top_k" is out of range' in caplog.messages[1]
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"format": "my secret"}, 'invalid format: …; expected "json" or a valid JSON Schema object'),
        ({"format": ["my secret" * 500]}, 'invalid format: …; expected "json" or a valid JSON Schema object'),
        ({"options": {"logit_bias": ["my secret"]}}, "must be an array of [token, bias] pairs, not …"),
        ({"options": {"logit_bias": [[["my secret"], 1]]}}, "must name a token by id or text, not …"),
        ({"options": {"kv_cache_type": "my secret"}}, "load options of the fake engine: Invalid enum value …"),
        ({"options": {"stop": {"my secret": 1}}}, 'option "stop" must be of type array'),
    ],
)
def test_the_log_does_not_repeat_what_was_refused(
    start_server: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    within: Callable[..., bool],
    body: Mapping[str, Any],
    reason: str,
) -> None:
    """The line has the reason without the texts that the client wrote; the client gets it with them."""
    engines = [msgspec.structs.replace(FAKE, load_options=CachedOptions)]
    with caplog.at_level(logging.INFO, "corral.http"), start_server(engines=engines) as server:
        response = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "my secret", **body})
        assert within(30, lambda: len(caplog.messages) == 1)
    assert response.status_code in (400, 500)
    assert f"error={reason}" in caplog.messages[0] or f"{reason} ms=" in caplog.messages[0]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_does_not_repeat_what_an_engine_raised(
    start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture, within: Callable[..., bool], stream: bool
) -> None:
    """The exception of a faulty engine may quote a prompt: the line has its class, the client its text."""
    with caplog.at_level(logging.INFO, "corral.http"), start_server({"raise_after": 2}) as server:
        response = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "x", "stream": stream})
        assert within(30, lambda: "error=the engine raised RuntimeError: … ms=" in caplog.text)
    assert "the engine raised RuntimeError: the fake engine is configured to raise" in response.text


def test_an_error_after_the_first_line_is_a_line(start_server: Callable[..., Any]) -> None:
    """Once the first line has been sent, an error comes as the last line, and no line says done."""
    with start_server({"answer": "a b c d e f g h", "fail_after": 4, "step_delay_s": 0.02}) as server:
        response = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "x"})
        assert response.status_code == 200
        *chunks, last = [json.loads(line) for line in response.text.splitlines()]
        assert chunks
        assert last == {"error": "the fake engine is configured to fail"}
        again = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "x", "stream": False})
        assert again.status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_before_the_first_line_has_its_status(start_server: Callable[..., Any], stream: bool) -> None:
    """A model that cannot be loaded gives 500 in the usual envelope, streamed or not."""
    with start_server({"fail_on_load": "bad weights"}) as server:
        body = {"model": MODEL, "prompt": "x", "stream": stream}
        response = httpx.post(f"{server.url}/api/generate", json=body)
        assert response.status_code == 500
        assert response.headers["content-type"].startswith("application/json")
        assert "bad weights" in response.json()["error"]


def test_the_app_needs_no_settings(shared_server: Any) -> None:
    """The application can be created with default settings."""
    assert create_app(shared_server.world.runtime).state.runtime is shared_server.world.runtime


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"origin": "http://evil.example.com"}, "server.origins does not allow http://evil.example.com"),
        ({"host": "evil.example.com"}, "evil.example.com does not name this machine"),
    ],
)
def test_who_is_not_answered_learns_how_to_be(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, within: Callable[..., bool], headers: Any, said: str
) -> None:
    """The log says why; so does the error of APIs that have one, while Ollama's is empty."""
    with caplog.at_level(logging.INFO, "corral.http"):
        ollamas = client.get("/api/tags", headers=headers)
        openais = client.get("/v1/models", headers=headers)
        assert within(30, lambda: caplog.text.count(said) == 2)
    assert (ollamas.status_code, ollamas.content) == (403, b"")
    assert openais.status_code == 403
    assert "server.origins" in openais.json()["error"]["message"]
