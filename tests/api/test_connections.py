"""What a connection accepts from its client: the size of a head, the form of a message, how long each may take."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from corral.api.http.connections import Connections
from corral.api.http.parse_turns import Turns

MODEL = "smol:q4"
GET = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {"ignore_eos": True, "num_predict": -1}


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def read_all(connection: socket.socket) -> bytes:
    """Reads until the server closes the connection."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def ask(port: int, *pieces: bytes) -> tuple[int, Any]:
    """Sends bytes and returns the status and JSON of the answer; the server must close the connection."""
    with connect(port) as connection:
        for piece in pieces:
            connection.sendall(piece)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)


def post(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def generate(port: int, *, top_logprobs: int | None = None, **options: Any) -> socket.socket:
    """Asks for a stream and reads none of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", port))
    body: dict[str, Any] = {"model": MODEL, "prompt": "x", "options": options}
    if top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": top_logprobs}
    connection.sendall(post("/api/generate", body))
    return connection


@contextmanager
def connected(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connect(port)) for _ in range(count)]


# ── Sizes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"a: " + b"x" * 25_000],
        [HEAD + b"a: "] + [b"x" * 500] * 50,
        [HEAD] + [b"a: " + b"x" * 500 + b"\r\n"] * 50,
        [b"GET /" + b"x" * 25_000],
        [HEAD + b"x" * 25_000],
        [b"\r\n" * 12_500],
        [CHUNKED + b"1;a=" + b"x" * 25_000],
        [CHUNKED + b"1;a=", *[b"x" * 500] * 50],
        [CHUNKED, *[b"1;a=" + b"x" * 500 + b"\r\n \r\n"] * 50],
        [CHUNKED + b"0" * 25_000],
        [CHUNKED + b"2\r\n{}\r\n0\r\na: " + b"x" * 25_000],
        [CHUNKED + b"2\r\n{}\r\n0\r\n", *[b"a: b\r\n"] * 4200],
        [GET + HEAD + b"a: " + b"x" * 25_000],
    ],
)
def test_a_head_over_the_limit_is_431(strict_server: Any, pieces: list[bytes]) -> None:
    """URL, headers, trailers and chunk extensions all count, in one piece or in many, in any request."""
    with connect(strict_server.port) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:
            pass  # the server has closed already
        answer = read_all(connection)
    assert b"HTTP/1.1 431 Request Header Fields Too Large\r\n" in answer
    assert b"connection: close" in answer
    assert answer.endswith(b'{"error":"the head of the request is larger than the limit of 20000 bytes"}')


def test_many_headers_are_431(strict_server: Any) -> None:
    """Many tiny headers are refused, because they take far more memory than bytes."""
    status, body = ask(strict_server.port, HEAD + b"a:\r\n" * 2000 + b"\r\n")
    assert status == 431
    assert body == {"error": "the request has more than 1000 headers"}


def test_very_many_chunks_are_413(monkeypatch: pytest.MonkeyPatch, start_server: Any) -> None:
    """A chunk of one byte costs as much time as one of a hundred thousand, so a body may not have millions of them."""
    monkeypatch.setattr("corral.api.http.request_reading._MOST_CHUNKS", 1000)
    with start_server() as server:
        assert ask(server.port, CHUNKED + b"1\r\n \r\n" * 2000)[0] == 413
        body = json.dumps({"model": MODEL}).encode()
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        with connect(server.port) as connection:
            connection.sendall(CHUNKED.replace(POST, POST + b"Connection: close\r\n") + pieces + b"0\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_head_and_chunks_within_the_limit_pass(strict_server: Any) -> None:
    """A long header sent byte by byte and a body in a thousand chunks, with an extension and a trailer, are
    accepted."""
    body = json.dumps({"model": MODEL, "system": "x" * 3000}).encode()
    chunks = b"".join(b"1;n=1\r\n%c\r\n" % byte for byte in body)
    whole = POST + b"a: " + b"x" * 9000 + b"\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    whole += b"0;last\r\nTrailer: x\r\n\r\n"
    with connect(strict_server.port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(9000):
            connection.sendall(whole[start : start + 1])
        connection.sendall(whole[9000:])
        assert read_all(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_long_header_in_many_parts_is_joined_in_few(strict_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser copies an incomplete header for each part that arrives, so it must get only a few parts."""
    from corral.api.http.connection import Connection

    parts: list[int] = []
    feed = Connection._feed

    def counted(self: Connection, piece: bytes) -> None:
        parts.append(len(piece))
        feed(self, piece)

    monkeypatch.setattr(Connection, "_feed", counted)
    with connect(strict_server.port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(HEAD + b"a: " + b"x" * 5000)
        for _ in range(3000):
            connection.sendall(b"x")
        connection.sendall(b"\r\nConnection: close\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200 OK")
    assert len(parts) < 30


# ── Form ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nhost: other\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400),
        (POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: 0x2\r\n\r\n{}", 400),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (CHUNKED + b"zz\r\n", 400),
        (CHUNKED + b"-1\r\n", 400),
        (CHUNKED + b"2\r\n{}}\r\n0\r\n\r\n", 400),
        (CHUNKED + b"fffffffffffffffff\r\n", 400),
        (CHUNKED + b"2\n{}\n0\n\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
    ],
)
def test_messages_that_can_be_read_in_two_ways_are_refused(
    shared_server: Any, request_bytes: bytes, status: int
) -> None:
    """They get an error in the usual envelope at once, and nothing after them is read."""
    found, body = ask(shared_server.port, request_bytes + GET)
    assert found == status
    assert list(body) == ["error"]


def test_http_1_0_needs_no_host(shared_server: Any) -> None:
    """HTTP/1.0 does not require a Host header."""
    with connect(shared_server.port) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200 OK")


def test_an_upgrade_that_is_offered_changes_nothing(shared_server: Any) -> None:
    """Java's client offers HTTP/2 with every request; its body is read, and so is the request after it."""
    body = json.dumps({"model": MODEL}).encode()
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    request = POST + upgrade + b"Content-Length: %d\r\n\r\n" % len(body)
    with connect(shared_server.port) as connection:
        connection.sendall(request + body[:5])
        time.sleep(0.05)
        connection.sendall(body[5:] + HEAD + b"Connection: close\r\n\r\n")
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b'"modelfile"' in answer


# ── Requests sent ahead ───────────────────────────────────────────────────────────────────────────────────────────


def test_requests_sent_ahead_are_answered_in_order(shared_server: Any) -> None:
    """All of them are answered in turn, including bodies in both framings."""
    show = json.dumps({"model": MODEL}).encode()
    mixed = GET + CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(show), show) + POST
    mixed += b"Content-Length: %d\r\n\r\n" % len(show) + show + b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(shared_server.port) as connection:
        connection.sendall(mixed * 50 + HEAD + b"Connection: close\r\n\r\n")
        answer = read_all(connection)
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", answer)
    assert statuses == [b"200", b"200", b"200", b"404"] * 50 + [b"200"]


def test_requests_sent_ahead_wait_with_the_client(shared_server: Any) -> None:
    """The server stops reading from a client that does not read, and creates no request before its turn."""
    with connect(shared_server.port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.5)
        sent = 0
        try:
            while sent < 20_000_000:
                sent += connection.send(GET * 2000)
        except TimeoutError:
            pass
        assert sent < 20_000_000
        gc.collect()
        assert sum(isinstance(one, RequestResponseCycle) for one in gc.get_objects()) < 50


def test_clients_that_send_ahead_take_turns(shared_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request after a client's first queues behind the other clients' requests, and all are answered."""
    waited = []
    wait = Turns.wait

    def counted(turns: Turns, who: object, go_on: Callable[[], None]) -> None:
        waited.append(who)
        wait(turns, who, go_on)

    monkeypatch.setattr(Turns, "wait", counted)
    with connected(shared_server.port, 20) as clients:
        for client in clients:
            client.sendall(GET * 20 + HEAD + b"Connection: close\r\n\r\n")
        for client in clients:
            assert read_all(client).count(b"HTTP/1.1 200 OK") == 21
    assert len(set(waited)) == 20
    assert len(waited) >= 20 * 20


def test_turns_are_few_at_a_time_and_in_order() -> None:
    """Turns are given in the order of waiting, and the event loop does other work in between."""

    async def look() -> None:
        turns, went, others = Turns(), list[int](), list[int]()
        for number in range(20):
            turns.wait(number, partial(went.append, number))
        turns.forget(3)
        while len(went) < 19:
            await asyncio.sleep(0)
            others.append(len(went))
            assert len(others) < 50
        assert went == [number for number in range(20) if number != 3]
        assert max(after - before for before, after in pairwise([0, *others])) <= 4

    asyncio.run(look())


def test_a_client_that_sent_one_ahead_and_leaves_is_noticed(
    start_server: Callable[..., Any], within: Callable[..., bool]
) -> None:
    """Its endless answer ends even though another request waits behind it."""
    with start_server({"step_delay_s": 0.02}) as server:
        connection = generate(server.port, **ENDLESS)
        assert within(30, lambda: server.active() == 1)
        connection.sendall(GET)
        time.sleep(0.1)
        connection.close()
        assert within(30, lambda: server.active() == 0)


@pytest.fixture
def checked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are looked at ten times as often."""
    monkeypatch.setattr("corral.api.http.serve._CHECK_EVERY_S", 0.1)
    monkeypatch.setattr("corral.api.http.reader_watch._STALLED_S", 0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it shows at the next line sent")
@pytest.mark.usefixtures("checked_often")
def test_a_client_that_sent_much_ahead_and_leaves_is_noticed(
    start_server: Callable[..., Any], within: Callable[..., bool]
) -> None:
    """Nothing is read from it or sent to it while its first answer is computed, so the server checks whether it has
    left."""
    with start_server({"step_delay_s": 0.02}) as server, connect(server.port) as connection:
        body = {"model": MODEL, "prompt": "x", "stream": False, "options": ENDLESS}
        connection.sendall(post("/api/generate", body) + GET * 2000)
        assert within(30, lambda: server.active() == 1)
        connection.close()
        assert within(30, lambda: server.active() == 0)


# ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_clients_that_stand_still_are_given_up(
    start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A head, a body, and a connection without a request have a time limit; a body that comes steadily has none."""
    limits = {"head_timeout_s": 0.4, "body_timeout_s": 0.4, "idle_timeout_s": 1.0}
    with caplog.at_level(logging.WARNING), start_server(**limits) as server, connected(server.port, 7) as clients:
        head, second_head, body, chunk, silent, idle, steady = clients
        head.sendall(HEAD)
        second_head.sendall(GET)
        body.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        chunk.sendall(CHUNKED + b"5\r\n{")
        idle.sendall(GET)
        steady.sendall(POST + b"Connection: close\r\nContent-Length: 20000\r\n\r\n{" + b" " * 10_000)
        second_head.sendall(b"G")
        for _ in range(6):  # longer than the limit, and never near what its bytes add to it
            time.sleep(0.1)
            steady.sendall(b" " * 1000)
        assert read_all(head).startswith(b"HTTP/1.1 408 Request Timeout")
        assert b"HTTP/1.1 408 Request Timeout" in read_all(second_head)
        for client in (body, chunk):
            answer = read_all(client)
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout")
            assert answer.endswith(b'{"error":"the body of the request took too long"}')
        assert read_all(silent) == b""
        assert read_all(idle).startswith(b"HTTP/1.1 200 OK")
        steady.sendall(b" " * 3998 + b"}")
        assert read_all(steady).startswith(b"HTTP/1.1 4")
    assert sum("body took too long" in message for message in caplog.messages) == 1


@pytest.mark.usefixtures("checked_often")
def test_a_reader_that_reads_nothing_is_dropped(
    start_server: Callable[..., Any], within: Callable[..., bool], caplog: pytest.LogCaptureFixture
) -> None:
    """Its model is released, and the log says why."""
    with caplog.at_level(logging.WARNING), start_server({"step_delay_s": 0.0}, reader_timeout_s=0.5) as server:
        connection = generate(server.port, top_logprobs=10, **ENDLESS)
        assert within(30, lambda: "cut off an answer because its client stopped reading" in caplog.text)
        assert within(30, lambda: server.active() == 0)
        assert httpx.get(f"{server.url}/").status_code == 200
        connection.close()


@pytest.mark.usefixtures("checked_often")
def test_an_answer_that_has_ended_gives_its_model_back(
    start_server: Callable[..., Any], within: Callable[..., bool]
) -> None:
    """It does so even though its client has hardly read anything; the client can still read the whole answer."""
    words = " ".join(str(number) for number in range(1200))
    with start_server({"answer": words, "step_delay_s": 0.0, "num_ctx": 50_000}, reader_timeout_s=60.0) as server:
        connection = generate(server.port, top_logprobs=10, num_predict=50_000, num_ctx=50_000)
        received = connection.recv(1)  # it has begun
        assert within(30, lambda: server.active() == 0)
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(1 << 20)
        connection.close()
    lines = [json.loads(line) for line in received.splitlines() if line.startswith(b"{")]
    assert "".join(line["response"] for line in lines).strip() == words
    assert lines[-1]["done_reason"] == "stop"
    assert len(received) > 1_500_000  # far more than sockets hold


# ── Number ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("beginning", [b"", HEAD, POST + b"Content-Length: 100\r\n\r\n{"])
def test_silent_connections_make_room(
    start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture, beginning: bytes
) -> None:
    """Idle connections never lock anyone out: the one that has been silent longest is closed."""
    with (
        caplog.at_level(logging.WARNING),
        start_server(max_connections=4) as server,
        connected(server.port, 12) as clients,
    ):
        for client in clients:
            client.sendall(beginning)
        time.sleep(0.1)
        for _ in range(5):
            assert httpx.get(f"{server.url}/").status_code == 200
        gone = 0
        for client in clients:
            client.settimeout(0.1)
            try:
                gone += client.recv(1) == b""
            except ConnectionResetError:
                gone += 1
            except TimeoutError:
                pass
        assert gone >= 8
    closings = [message for message in caplog.messages if "longest idle" in message]
    assert closings[:1] == ["closed the longest idle connection to make room: 4 were open"]
    assert len(closings) <= 2


def test_busy_connections_are_kept_and_others_told(
    start_server: Callable[..., Any], within: Callable[..., bool]
) -> None:
    """When every place is taken by a running answer, a new connection gets 503 and the reason."""
    with start_server({"step_delay_s": 0.02}, max_connections=2) as server:
        streams = [generate(server.port, **ENDLESS) for _ in range(2)]
        assert within(30, lambda: server.active() == 2)
        status, body = ask(server.port, GET)
        assert status == 503
        assert "the server has reached its limit of connections" in body["error"]
        streams.pop().close()
        assert within(30, lambda: server.active() == 1)
        assert httpx.get(f"{server.url}/").status_code == 200
        streams.pop().close()


def test_places_are_kept_free_of_clients() -> None:
    """Some of the open files that the system allows are kept for other uses than connections."""
    assert Connections(2048, None).limit == 2048
    assert Connections(2048, 65_536).limit == 2048
    assert Connections(2048, 1024).limit == 512
    assert Connections(2048, 256).limit == 128
    assert Connections(64, 256).limit == 64


def test_memory_goes_back_once_many_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed connections leave small blocks behind; memory is returned to the system once for many of them, not for
    each."""
    returned = []
    monkeypatch.setattr("corral.api.http.connections.return_free_memory", lambda: returned.append(1))

    class Silent:
        def check(self, now_s: float) -> None: ...

        def retire(self) -> None: ...

    async def look() -> None:
        connections = Connections(200, None)
        for _ in range(3):
            clients = [Silent() for _ in range(100)]
            assert all(connections.admit(client) for client in clients)
            connections.check()
            for client in clients:
                connections.forget(client)
            connections.check()
            connections.check()
        for _ in range(100):
            client = Silent()
            connections.admit(client)
            connections.forget(client)
            connections.check()
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(look())
    assert len(returned) == 3


def test_the_limit_of_open_files_is_raised() -> None:
    """The limit is raised as far as the system allows."""
    code = (
        "import resource as r; hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; top = 4096 if hard < 0 else min(hard, 4096)\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, top))\n"
        "from corral.api.http.connections import raise_file_limit\n"
        "assert raise_file_limit() == top == r.getrlimit(r.RLIMIT_NOFILE)[0]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_unfinished_requests_are_bounded_together(
    monkeypatch: pytest.MonkeyPatch, start_server: Any, within: Callable[..., bool]
) -> None:
    """Each unfinished request may be large, but not all of them together."""
    monkeypatch.setattr("corral.api.http.connections._MOST_UNFINISHED_BYTES", 200_000)
    held: list[int] = []
    hold = Connections.hold

    def counted(connections: Connections, size_bytes: int) -> bool:
        held.append(size_bytes)
        return hold(connections, size_bytes)

    monkeypatch.setattr(Connections, "hold", counted)
    with start_server() as server, connected(server.port, 3) as clients:
        clients[0].sendall(HEAD + b"a: " + b"x" * 90_000)
        assert within(30, lambda: sum(held) > 90_000)
        clients[1].sendall(HEAD + b"a: " + b"x" * 90_000)
        assert within(30, lambda: sum(held) > 180_000)
        clients[2].sendall(HEAD + b"a: " + b"x" * 90_000)
        assert read_all(clients[2]).startswith(b"HTTP/1.1 503 ")
        clients[0].sendall(b"\r\nConnection: close\r\n\r\n")
        assert read_all(clients[0]).startswith(b"HTTP/1.1 200 OK")
        with connect(server.port) as other:
            other.sendall(HEAD + b"a: " + b"x" * 90_000 + b"\r\nConnection: close\r\n\r\n")
            assert read_all(other).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it shows once there is room")
def test_a_client_that_left_while_it_waited_for_room_is_noticed(
    start_server: Any, within: Callable[..., bool], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is read from its connection, but the disconnect is still noticed: the request ends and releases its
    bytes.
    """
    caplog.set_level(logging.INFO, "corral.http")
    big = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n" + b'{"prompt": "'
    with start_server(max_body_bytes=2_000_000) as server, connected(server.port, 8) as clients:
        for client in clients:
            client.sendall(big + b"x" * 300_000)
            time.sleep(0.02)
        for client in clients[1:]:  # the first one keeps what it has
            client.close()
        assert within(30, lambda: sum(message.startswith("499 POST") for message in caplog.messages) == 7)


# ── uvicorn ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_uvicorn_is_made_as_we_rely_on() -> None:
    """Its protocol is not a public interface: this test fails if a release changes what `Connection` uses."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    async def look() -> None:
        config = uvicorn.Config(app, http="httptools", ws="none", log_config=None)
        server = uvicorn.Server(config)
        config.load()
        protocol = HttpToolsProtocol(config, server.server_state, {})
        for name in ("parser", "transport", "flow", "cycle", "client", "headers", "scope", "loop"):
            assert hasattr(protocol, name), name
        for name in (
            "on_message_begin",
            "on_header",
            "on_headers_complete",
            "on_body",
            "on_message_complete",
            "on_response_complete",
            "_start_asgi_task",
            "_unset_keepalive_if_required",
            "shutdown",
        ):
            assert callable(getattr(protocol, name)), name
        assert not protocol._should_upgrade_to_ws()
        assert {"read_paused", "write_paused"} <= set(vars(FlowControl(asyncio.Transport())))
        names = RequestResponseCycle.__init__.__code__.co_names
        assert {"disconnected", "response_started", "response_complete", "message_event"} <= set(names)
        for name in ("startup", "shutdown", "on_tick", "server_state", "should_exit", "force_exit"):
            assert hasattr(server, name), name
        assert {"connections", "tasks"} <= set(vars(server.server_state))

    asyncio.run(look())
