"""A client that disconnects cancels its request within a step, whatever stage the request is in."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from litestar import Request, Response, Router, post
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from corral.core.requests.calls import GenerateCall
from corral.core.requests.outputs import Delta

MODEL = "smol:q4"

Start = Callable[..., Any]
Within = Callable[[float, Callable[[], bool]], bool]


def send(port: int, path: str, body: dict[str, Any]) -> socket.socket:
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    )
    return connection


async def deltas(request: Request[Any, Any, Any]) -> AsyncIterator[bytes]:
    options = {"ignore_eos": True, "num_predict": 9999}
    call = GenerateCall(model=MODEL, prompt="x", options=options)
    async with await request.app.state.runtime.inference.generate(call) as answer:
        async for output in answer:
            if isinstance(output, Delta):
                yield output.text.encode()


@post("/whole", status_code=200)
async def whole(request: Request[Any, Any, Any]) -> bytes:
    await request.body()
    return b"".join([piece async for piece in deltas(request)])


@post("/unread", status_code=200)
async def unread(request: Request[Any, Any, Any]) -> bytes:
    return b"".join([piece async for piece in deltas(request)])


@post("/lines", status_code=200)
async def lines(request: Request[Any, Any, Any]) -> Stream:
    return Stream(deltas(request))


PLUGIN = Router("/plugin", route_handlers=[whole, unread, lines])


@pytest.mark.parametrize("stream", [True, False])
def test_while_tokens_come(start_server: Start, within: Within, stream: bool) -> None:
    """An endless answer ends when its reader disconnects, streamed or not, and others continue."""
    with start_server({"step_delay_s": 0.02}) as server:
        endless = {
            "model": MODEL,
            "prompt": "x",
            "stream": stream,
            "options": {"ignore_eos": True, "num_predict": 9999},
        }
        connection = send(server.port, "/api/generate", endless)
        assert within(30, lambda: server.active() == 1)
        if stream:
            assert connection.recv(64).startswith(b"HTTP/1.1 200")
        connection.close()
        assert within(30, lambda: server.active() == 0)
        reply = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "prompt": "x", "stream": False})
        assert reply.json()["done"]


@pytest.mark.parametrize("stream", [True, False])
def test_while_the_prompt_is_computed(start_server: Start, within: Within, stream: bool) -> None:
    """A disconnected client is noticed before the first byte of the answer, too."""
    with start_server({"step_delay_s": 0.1, "max_prefill_tokens": 1}) as server:
        connection = send(server.port, "/api/generate", {"model": MODEL, "prompt": "word " * 500, "stream": stream})
        assert within(30, lambda: server.active() == 1)
        connection.close()
        assert within(30, lambda: server.active() == 0)


def test_while_the_model_loads(start_server: Start, within: Within) -> None:
    """A load is cancelled when nobody waits for it any more."""
    with start_server({"load_delay_s": 60.0}) as server:
        connection = send(server.port, "/api/chat", {"model": MODEL, "messages": []})
        assert within(30, lambda: server.loads() == 1)
        connection.close()
        assert within(30, lambda: server.loads() == 0)


def test_while_vectors_are_computed(start_server: Start, within: Within, caplog: pytest.LogCaptureFixture) -> None:
    """Embedding requests are cancelled too."""
    with caplog.at_level(logging.INFO, "corral.http"), start_server({"step_delay_s": 0.5}) as server:
        connection = send(server.port, "/api/embed", {"model": MODEL, "input": "x"})
        assert within(30, lambda: server.active() == 1)
        connection.close()
        assert within(30, lambda: server.active() == 0)
        assert within(30, lambda: "499 POST /api/embed" in caplog.text)


@pytest.mark.parametrize("path", ["/plugin/whole", "/plugin/unread", "/plugin/lines"])
def test_routes_of_plugins(start_server: Start, within: Within, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """They are cancelled without doing anything for it, whether they have read their body, and stream, or not."""
    with (
        caplog.at_level(logging.INFO, "corral.http"),
        start_server({"step_delay_s": 0.01}, routers=[PLUGIN]) as server,
    ):
        connection = send(server.port, path, {})
        assert within(30, lambda: server.active() == 1)
        if path == "/plugin/lines":
            assert connection.recv(64).startswith(b"HTTP/1.1 200")
        connection.close()
        assert within(30, lambda: server.active() == 0)
        status = 200 if path == "/plugin/lines" else 499
        assert within(30, lambda: f"{status} POST {path}" in caplog.text)
    assert "Traceback" not in caplog.text
    assert "cutting off" not in caplog.text


@pytest.mark.parametrize("path", ["/plugin/whole", "/plugin/lines"])
def test_routes_of_plugins_when_the_server_stops(start_server: Start, within: Within, path: str) -> None:
    """After the grace period, the client gets an error, or sees that the response is cut off."""
    with start_server({"step_delay_s": 0.01}, routers=[PLUGIN], shutdown_grace_s=0) as server:
        connection = send(server.port, path, {})
        assert within(30, lambda: server.active() == 1)
        if path == "/plugin/lines":
            assert connection.recv(64).startswith(b"HTTP/1.1 200")
    with connection:
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    if path == "/plugin/whole":
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"shutting down" in reply
    else:
        assert not reply.endswith(b"0\r\n\r\n")


def test_what_a_route_does_after_its_response(start_server: Start) -> None:
    """A client that has its whole response may leave: what the route does afterwards continues."""
    may_end, has_ended = threading.Event(), threading.Event()

    async def work() -> None:
        await asyncio.to_thread(may_end.wait, 30)
        has_ended.set()

    @post("/later", status_code=200)
    async def later() -> Response[bytes]:
        return Response(b"soon", background=BackgroundTask(work))

    with start_server({}, routers=[Router("/plugin", route_handlers=[later])]) as server:
        with httpx.Client() as client:
            assert client.post(f"{server.url}/plugin/later").content == b"soon"
        httpx.get(f"{server.url}/api/version")  # the server has seen the first connection close
        may_end.set()
        assert has_ended.wait(30)
