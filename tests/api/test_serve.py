"""Listening, the error about a port in use, and a shutdown that lets requests finish."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from corral.api.http.app import create_app
from corral.api.http.listening import bind, who_answers
from corral.api.http.serve import serve
from corral.api.http.settings import HttpSettings
from corral.core.errors import Conflict, SettingsError

MODEL = "smol:q4"


def send(port: int, path: str, body: dict[str, Any]) -> socket.socket:
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    )
    return connection


def test_a_port_that_corral_has_is_told(shared_server: Any) -> None:
    """The error says what is using the port and what to do."""
    with pytest.raises(Conflict, match=r"127.0.0.1:\d+ is in use by Corral 9.9.9") as caught:
        bind(HttpSettings(port=shared_server.port))
    assert caught.value.remedy is not None
    assert "another port" in caught.value.remedy


def test_a_port_that_an_ollama_has_is_told() -> None:
    """A server that reports a version but no ``corral`` key is taken for Ollama."""

    class Ollama(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"version": "0.5.1"}')

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Ollama) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert who_answers("127.0.0.1", server.server_port) == "Ollama 0.5.1"
        thread.join()


def test_a_port_that_something_else_has_is_told() -> None:
    """A server that does not speak HTTP is called another program."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        accepting = threading.Thread(target=lambda: other.accept()[0].close())
        accepting.start()
        with pytest.raises(Conflict, match="is in use by another program"):
            bind(HttpSettings(port=other.getsockname()[1]))
        accepting.join()


def test_an_address_of_another_machine_is_refused() -> None:
    """Listening is possible only on an address of this machine."""
    with pytest.raises(SettingsError, match=r"cannot listen on 203\.0\.113\.7:1"):
        bind(HttpSettings(host="203.0.113.7", port=1))


def test_requests_in_flight_may_end(start_server: Callable[..., Any]) -> None:
    """On a stop, a request that ends within the grace period completes; new connections are refused."""
    results: list[httpx.Response] = []
    with start_server({"answer": "a b c d e f g h i j", "step_delay_s": 0.05}, shutdown_grace_s=10) as server:
        body = {"model": MODEL, "prompt": "x"}
        asking = threading.Thread(target=lambda: results.append(httpx.post(f"{server.url}/api/generate", json=body)))
        asking.start()
        while not server.active():
            pass
    asking.join()
    assert results[0].text.count('"done":true') == 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


@pytest.mark.parametrize("stream", [True, False])
def test_requests_that_do_not_end_are_cut_off(
    start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    """After the grace period an endless answer ends in an error, and the log says in one line how many did."""
    replies: list[httpx.Response] = []

    def ask(url: str) -> None:
        options = {"ignore_eos": True, "num_predict": 9999}
        body = {"model": MODEL, "prompt": "x", "stream": stream, "options": options}
        replies.append(httpx.post(f"{url}/api/generate", json=body, timeout=60))

    with caplog.at_level(logging.WARNING):
        with start_server({"step_delay_s": 0.02}, shutdown_grace_s=0) as server:
            asking = [threading.Thread(target=ask, args=(server.url,)) for _ in range(2)]
            for thread in asking:
                thread.start()
            while server.active() < 2:
                pass
        for thread in asking:
            thread.join()
    assert [json.loads(reply.text.splitlines()[-1]) for reply in replies] == [
        {"error": "the server is shutting down"},
        {"error": "the server is shutting down"},
    ]
    assert {reply.status_code for reply in replies} <= ({200, 503} if stream else {503})
    stops = [record.getMessage() for record in caplog.records if "cutting off" in record.getMessage()]
    assert stops == ["cutting off 2 requests still running"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


_PROGRAM = """
import logging, sys
from tests.api import conftest as world_of
logging.basicConfig(level="INFO")

async def main():
    world = world_of.World({"answer": "a b c", "step_delay_s": 0.01})
    await world.add("smol:q4", capabilities=("completion",))
    http = world_of.HttpSettings(port=0, shutdown_grace_s=int(sys.argv[1]))
    app = world_of.create_app(world.runtime, (), http)
    await world_of.serve(app, http, on_ready=lambda url: print(url, flush=True))
    await world.runtime.aclose()
    world.blobs.close()

world_of.run_event_loop(main())
"""


def listens(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=60).close()
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize(("grace_s", "signals"), [(0, 1), (60, 2)])
def test_a_signal_ends_streams_without_a_traceback(grace_s: int, signals: int) -> None:
    """The first signal starts the grace period and the second ends it; the exit status is 0, and the log has no
    errors."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _PROGRAM, str(grace_s)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        body = {"model": MODEL, "prompt": "x", "options": {"ignore_eos": True, "num_predict": -1}}
        with httpx.stream("POST", f"{url}/api/generate", json=body, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                while listens(url):  # until the signal has arrived: a second one too early would be the same one
                    time.sleep(0.01)
            *_, last = lines
        log = process.stderr.read()
        assert process.wait(20) == 0
    assert json.loads(last) == {"error": "the server is shutting down"}
    assert log.count("cutting off 1 request still running") == 1
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_a_client_that_reads_nothing_does_not_hold_up_a_stop(start_server: Callable[..., Any]) -> None:
    """The server stops even though its last line cannot be sent; an unfinished upload gets 503."""
    with start_server({"answer": "x" * 50_000, "step_delay_s": 0.0}, shutdown_grace_s=0) as server:
        body = {"model": MODEL, "prompt": "x", "options": {"ignore_eos": True, "num_predict": -1}}
        reader = send(server.port, "/api/generate", body)
        uploader = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        uploader.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        while not server.active():
            pass
        time.sleep(0.3)
    assert uploader.recv(4096).startswith(b"HTTP/1.1 503 ")
    reader.close()
    uploader.close()


def test_a_unix_socket_is_served_and_removed(shared_server: Any, tmp_path: Path) -> None:
    """A socket file works as an address; one left by a killed server is replaced, one in use is not."""
    path = tmp_path / "corral.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    settings = HttpSettings(unix_socket=str(path))

    async def use() -> None:
        ready = asyncio.Event()
        app = create_app(shared_server.world.runtime, settings=settings)
        serving = asyncio.ensure_future(serve(app, settings, on_ready=lambda address: ready.set()))
        await ready.wait()
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            assert (await client.get("http://localhost/")).text == "Ollama is running"
        with pytest.raises(Conflict, match="is in use by another server"):
            await asyncio.to_thread(bind, settings)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(use())
    assert not path.exists()


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_link(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(f"{path}.target")
    path.symlink_to(f"{path}.target")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_file, "a regular file"),
        (make_link, "a symbolic link"),
        (Path.mkdir, "a folder"),
        (os.mkfifo, "a named pipe"),
        (lambda path: path.symlink_to("/nowhere"), "a symbolic link"),
    ],
)
def test_only_a_socket_is_replaced(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    """Anything at the path that is not a socket is named in the error and left alone."""
    path = tmp_path / "x"
    make(path)
    before = os.lstat(path)
    with pytest.raises(SettingsError, match=f"cannot listen on {path}: it is {kind}, not a socket") as caught:
        bind(HttpSettings(unix_socket=str(path)))
    assert caught.value.remedy is not None
    assert os.lstat(path) == before


@pytest.mark.parametrize("path", ["/nowhere/x.sock", "/dev/null", "a\0b", "x" * 200])
def test_a_path_that_cannot_be_a_socket_is_told(path: str) -> None:
    """A missing folder, a device, a NUL and a path that is too long are errors in the settings."""
    with pytest.raises(SettingsError, match="cannot listen on"):
        bind(HttpSettings(unix_socket=path))
    assert os.path.exists("/dev/null")


def test_a_socket_that_another_server_has_meanwhile_stays(shared_server: Any, tmp_path: Path) -> None:
    """At its end a server removes its own socket, not one that took its place."""
    path = tmp_path / "corral.sock"
    settings = HttpSettings(unix_socket=str(path))

    async def use() -> None:
        ready = asyncio.Event()
        app = create_app(shared_server.world.runtime, settings=settings)
        serving = asyncio.ensure_future(serve(app, settings, on_ready=lambda address: ready.set()))
        await ready.wait()
        path.unlink()
        other.bind(str(path))
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    with socket.socket(socket.AF_UNIX) as other:
        asyncio.run(use())
        assert path.is_socket()
