"""The commands that talk to a server: to a Corral, to another program, and to none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from corral.api.cli.backends import RunOptions, ServerBackend
from corral.api.cli.client import ServerClient
from corral.core.errors import EngineError, NotFound, ServerBusy, SourceError
from corral.plugins.assembly import Address
from corral.plugins.testing.gguf import gguf_bytes

MODEL = "small:latest"

Corral = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path, user_at: Callable[..., dict[str, str]]) -> dict[str, str]:
    return user_at(tmp_path)


@pytest.fixture
def corral(environment: dict[str, str], call_corral: Corral) -> Corral:
    """Runs the command as that user, in this process; keyword arguments are environment variables."""
    return lambda *arguments, **more: call_corral(environment | more, *arguments)


@contextmanager
def answering(replies: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """A web server that answers each path with a status and a body; the value is its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = replies.get(self.path, (404, b"404 page not found"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_a_server_does_the_work(
    corral: Corral, environment: dict[str, str], serve_corral: Callable[..., Any], tmp_path: Path
) -> None:
    """`run` goes through it, `ps` lists what it loaded, `stop` unloads it, and `rm` unloads before it removes.

    Its `--models` is the store, whatever the settings say.
    """
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())
    assert corral("import", str(file), "--name", MODEL).returncode == 0
    elsewhere = environment | {"CORRAL_STORE": "memory", "CORRAL_MODELS": str(tmp_path / "others")}
    models = environment["CORRAL_MODELS"]
    with serve_corral(elsewhere, "--models", models, "--engine", "fake", "--log-json", address=()) as server:
        answer = corral("run", MODEL, "hello", "-o", "seed=1")
        assert answer.returncode == 0, answer.stderr
        local = corral("run", MODEL, "hello", "-o", "seed=1", "--engine", "fake")
        assert answer.stdout == local.stdout
        picky = corral("run", MODEL, "hello", "--format", "json", "-o", "num_predict=2", "-o", "temperature=0")
        assert picky.stdout.startswith("{"), picky.stderr
        header, row = corral("ps").stdout.splitlines()
        assert header.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "ENGINE", "PREFIXES", "UNTIL"]
        assert row.startswith(MODEL)
        assert "100% CPU" in row
        assert row.endswith("minutes from now")
        assert json.loads(corral("ps", "--json").stdout)[0]["name"] == MODEL
        assert "Loaded engine fake runner process " in " ".join(corral("show", MODEL).stdout.split())
        assert json.loads(corral("show", MODEL, "--json").stdout)["loaded"]["engine"] == "fake"
        assert corral("stop", MODEL).returncode == 0
        assert json.loads(corral("ps", "--json").stdout) == []
        absent = corral("run", "absent", "hello")
        assert absent.returncode == 1
        assert "has no model 'absent'" in absent.stderr
        assert "couldn't find model" in corral("stop", "absent").stderr
        corral("run", MODEL, "hello")
        assert corral("rm", MODEL).stdout == f"deleted '{MODEL}'\n"
        assert json.loads(corral("ps", "--json").stdout) == []
    assert server.process.returncode == 0
    requests = [json.loads(line) for line in server.log if '"status"' in line]
    assert any(request["path"] == "/api/generate" and request["model"] == MODEL for request in requests)
    assert not any("hello" in line for line in server.log)


def lines(*events: dict[str, Any]) -> tuple[int, bytes]:
    """A streamed answer."""
    return 200, b"".join(json.dumps(event).encode() + b"\n" for event in events)


LISTED = {
    "name": "small:latest",
    "digest": "ab" * 32,
    "size": 12,
    "modified_at": "2026-03-01T10:00:00.123456789+02:00",
    "details": {"format": "gguf", "quantization_level": "Q4_1"},
}
TAGS = (200, json.dumps({"models": [LISTED]}).encode())


def test_transfers_through_a_server(corral: Corral) -> None:
    """The server pulls and pushes; its errors are reported, and so is a stream that ends too early."""
    digest = "sha256:" + "cd" * 32
    replies = {
        "/api/version": (200, b'{"version":"0.33.0","corral":"1"}'),
        "/api/tags": TAGS,
        "/api/pull": lines(
            {"status": "pulling manifest"},
            {"status": "pulling ab", "digest": "sha256:ab", "total": 10, "completed": 5},
            {"status": "success", "model": "small:latest"},
        ),
        "/api/push": lines({"status": "retrieving manifest"}, {"status": "success", "manifest": digest}),
    }
    with answering(replies) as address:
        server = ("--set", f"server.host={address}")
        pulled = corral(*server, "pull", "small", "--insecure")
        assert (pulled.returncode, pulled.stdout) == (0, "pulled small:latest\n"), pulled.stderr
        files = [{"role": "weights", "media_type": "x", "digest": "sha256:ab", "size_bytes": 12, "path": None}]
        replies["/api/show"] = (200, json.dumps({"corral": {"files": files}}).encode())
        assert json.loads(corral(*server, "pull", "small", "--json").stdout) == {
            "name": "small:latest",
            "digest": "sha256:" + "ab" * 32,
            "format": "gguf",
            "quantization": "Q4_1",
            "size_bytes": 12,
            "remote_host": None,
            "remote_model": None,
            "modified_at": "2026-03-01T08:00:00.123456Z",
            "files": files,
        }
        pushed = corral(*server, "push", "small", "oci://registry.example/small", "--format", "modelpack")
        empty = corral(*server, "push", "small", "")
        assert (empty.returncode, "the reference is empty" in empty.stderr) == (2, True)
        assert pushed.stdout == f"pushed small to oci://registry.example/small ({'cd' * 6})\n", pushed.stderr
        replies["/api/pull"] = lines({"status": "pulling manifest"}, {"error": "pull model manifest: no"})
        assert "Error: pull model manifest: no" in corral(*server, "pull", "small").stderr
        replies["/api/push"] = lines({"status": "retrieving manifest"})
        assert "closed the connection before it was done" in corral(*server, "push", "small").stderr
        replies["/api/push"] = (500, b'{"error":"model \'smal:latest\' not found"}')
        unknown = corral(*server, "push", "smal").stderr
        assert unknown.startswith("Error: model 'smal:latest' not found\ndid you mean small:latest?"), unknown
        local = corral(*server, "pull", "carrier-pigeon://x", "--local")
        assert "references start with one of" in local.stderr


@pytest.mark.slow
def test_a_taken_port(corral: Corral, environment: dict[str, str]) -> None:
    """The second server says what is using the port; another program is not mistaken for a Corral."""
    with answering({"/api/version": (200, b'{"version":"0.5.1"}')}) as address:
        ended = corral("serve", "--host", address)
        assert ended.returncode == 1
        assert f"Error: {address} is in use by Ollama 0.5.1" in ended.stderr


@pytest.mark.parametrize(
    ("version", "who"),
    [
        ((200, b'{"version":"0.5.1"}'), "Ollama 0.5.1"),
        ((200, b"<html>"), "another program"),
        ((404, b"not here"), "another program"),
        ((200, b"[1]"), "another program"),
    ],
)
def test_a_foreign_server_is_not_used(corral: Corral, version: tuple[int, bytes], who: str) -> None:
    """`run`, `ps` and `stop` say which program is there and how to continue."""
    with answering({"/api/version": version}) as address:
        for arguments in (("run", MODEL, "hello"), ("ps",), ("stop", MODEL)):
            ended = corral(*arguments, CORRAL_HOST=address)
            assert ended.returncode == 1
            if arguments[0] == "run":
                assert f"Error: the server at http://{address} is {who}, not Corral" in ended.stderr
                assert "--local" in ended.stderr
            else:
                assert f"Error: the server at http://{address} is {who}, not Corral" in ended.stderr
                assert "corral serve" in ended.stderr
        ended = corral("run", MODEL, "hello", "--local", CORRAL_HOST=address)
        assert "not found" in ended.stderr


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (404, b'{"error":"model not found"}', NotFound, "model not found"),
        (503, b'{"error":"busy"}', ServerBusy, "busy"),
        (500, b'{"error":"broken"}', EngineError, "broken"),
        (502, b"<html>bad gateway</html>", EngineError, "the server answered 502: <html>bad gateway"),
        (200, b"not json", SourceError, "the exchange with the server"),
    ],
)
def test_errors_of_a_server(status: int, body: bytes, error: type[Exception], message: str) -> None:
    """The status decides the class of the error; its message is the server's text."""
    with answering({"/api/show": (status, body)}) as address:
        client = ServerClient(Address(address))
        with pytest.raises(error, match=message):
            client.call("POST", "/api/show", {"model": "x"})


def test_a_stream_that_fails_midway() -> None:
    """An error line is raised after the chunks before it."""
    with answering({"/api/chat": (200, b'{"message":{"content":"a"}}\n{"error":"it broke"}\n')}) as address:
        lines = ServerClient(Address(address)).stream("/api/chat", {})
        assert next(lines)["message"]["content"] == "a"
        with pytest.raises(EngineError, match="it broke"):
            next(lines)


def test_a_stream_that_ends_too_early() -> None:
    """An answer without its last line is an error."""
    with answering({"/api/chat": (200, b'{"message":{"content":"a"},"done":false}\n')}) as address:
        reply = ServerBackend(ServerClient(Address(address))).chat(RunOptions(model="x"), [])
        assert next(reply).text == "a"
        with pytest.raises(SourceError, match="before the answer was complete"):
            next(reply)


def test_a_server_under_a_path() -> None:
    """The path of the address is prepended to every route."""
    with answering({"/models/api/version": (200, b'{"version":"0","corral":"9"}')}) as address:
        assert ServerClient(Address(f"http://{address}/models")).state() == "corral"
        assert ServerClient(Address(f"http://{address}")).state() == "foreign"


def test_no_server(tmp_path: Path) -> None:
    """If nothing listens, or the socket file does not exist, the server is absent."""
    with answering({}) as address:
        pass
    assert ServerClient(Address(address)).state() == "absent"
    client = ServerClient(Address(f"unix:{tmp_path / 'none'}"))
    assert client.state() == "absent"
    with pytest.raises(SourceError, match="no server answers at"):
        ServerClient(Address(address)).call("GET", "/api/ps")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
def test_output_that_nobody_takes(corral: Corral, environment: dict[str, str], tmp_path: Path) -> None:
    """A reader that goes away ends the answer silently; a full disk ends it with an error."""
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())
    corral("import", str(file), "--name", MODEL)
    run = [sys.executable, "-m", "corral.api.cli", "run", MODEL, "hello", "--engine", "fake"]
    said = {}
    for where, redirected in (("head", "| head -c 1"), ("full", "> /dev/full")):
        ended = subprocess.run(
            ["sh", "-c", f'"$@" {redirected}', "sh", *run, "-o", "num_predict=2000"],
            capture_output=True, text=True, timeout=60, env=environment, check=False,
        )  # fmt: skip
        said[where] = ended.stderr
    assert said["head"] == ""
    assert said["full"] == "Error: [Errno 28] No space left on device\n"
