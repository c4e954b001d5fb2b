"""A small HTTP server that answers as a test specifies, for tests of HTTP clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import msgspec

__all__ = ("Asked", "ScriptedReply", "ScriptedServer")


class ScriptedReply(msgspec.Struct, kw_only=True):
    """The response of one path. `pieces` are streamed one by one; then the response ends, `breaks` off, or repeats the
    last piece forever, which shows when the client leaves. `hangs`: no response is sent."""

    status: int = 200
    body: Any = None
    pieces: Sequence[bytes] = ()
    headers: Mapping[str, str] = {}
    breaks: bool = False
    endless: bool = False
    hangs: bool = False


class Asked(msgspec.Struct, kw_only=True):
    """A request that was received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


class ScriptedServer:
    """Listens on this machine until it is closed, and is a context manager.

    `replies` are by path and may be changed at any time; the entries of a list are used one by one, and the last one
    stays. `asked` is what has arrived so far, over how many `connections`; `left` is set when a client leaves an
    endless answer.
    """

    def __init__(self) -> None:
        self.replies: dict[str, ScriptedReply | list[ScriptedReply]] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self.left = threading.Event()
        self._stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def bodies(self, path: str) -> list[Any]:
        """The requests to this path, oldest first."""
        return [asked.body for asked in self.asked if asked.path == path]

    def close(self) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _reply(self, path: str) -> ScriptedReply:
        found = self.replies.get(path, ScriptedReply(status=404, body={"error": "not here"}))
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise each write after the first waits until the client has acknowledged it, which takes 40 ms.
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                script.connections += 1

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle(self) -> None:
                with suppress(ConnectionError):
                    super().handle()

            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                data = self.rfile.read(length)
                script.asked.append(
                    Asked(
                        method=self.command,
                        path=self.path,
                        headers={name.lower(): value for name, value in self.headers.items()},
                        body=json.loads(data) if data else None,
                    )
                )
                reply = script._reply(self.path)
                if reply.hangs:
                    script._stopping.wait()
                if reply.hangs or (reply.breaks and not reply.pieces):
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.pieces:
                    self._stream(reply)
                    return
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self, reply: ScriptedReply) -> None:
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for piece in reply.pieces:
                    self._chunk(piece)
                try:
                    while reply.endless and not script._stopping.wait(0.005):
                        self._chunk(reply.pieces[-1])
                except ConnectionError:
                    script.left.set()
                    raise
                if reply.breaks or reply.endless:
                    self.close_connection = True
                else:
                    self.wfile.write(b"0\r\n\r\n")

            def _chunk(self, data: bytes) -> None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()

            do_GET = do_POST = answer

        return Handler
