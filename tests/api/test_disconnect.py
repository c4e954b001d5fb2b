"""A client that disconnects cancels its request within a step, whatever stage the request is in."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

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
