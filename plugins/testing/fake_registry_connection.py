"""A connection to a `FakeRegistry`: requests are noted and faults obeyed before anything is answered."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from corral.plugins.testing.fake_registry_state import RegistryState, SeenRequest

__all__ = ("FakeConnection",)


class FakeConnection(BaseHTTPRequestHandler):
    """The body of the next answer breaks off at `cut_after`, or stalls at `stall_after` until the registry closes."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    cut_after: int | None = None
    stall_after: int | None = None

    def do_any(self) -> None:
        self.cut_after = self.stall_after = None
        self.body = self._read_body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.state.seen.append(
            SeenRequest(method=self.command, path=self.path, headers=headers, body_bytes=len(self.body))
        )
        fault = self.state.take_fault(self.command, self.path)
        if fault is not None:
            fault.do(self)
            return
        self.answer_as_usual()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_any

    def answer_as_usual(self) -> None:
        """The answer without any fault."""
        raise NotImplementedError

    def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        """Sends an answer, or as much of it as a fault lets through."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in {name.lower() for name in headers}:
            self.send_header("Content-Length", str(len(body)))
        if not self.state.keeps_connections:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.stall_after is not None:
            self.wfile.write(body[: self.stall_after])
            self.wfile.flush()
            self.state.stalling.set()
            self.state.released.wait(60)
            self.hang_up()
        elif self.cut_after is not None and self.cut_after < len(body):
            self.wfile.write(body[: self.cut_after])
            self.hang_up()
        else:
            self.wfile.write(body)

    def error(self, status: int, code: str, message: str = "", headers: Mapping[str, str] = {}) -> None:
        """An answer with an error as the specification writes it."""
        body = {"errors": [{"code": code, "message": message or code.lower().replace("_", " ")}]}
        self.reply(status, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})

    def hang_up(self) -> None:
        """Closes the connection without another byte."""
        with suppress(OSError):
            self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def state(self) -> RegistryState:
        state: RegistryState = self.server.state  # type: ignore[attr-defined]
        return state

    @property
    def own_url(self) -> str:
        url: str = self.server.state.url  # type: ignore[attr-defined]
        return url

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = bytearray()
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)
