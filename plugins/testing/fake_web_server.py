"""`FakeWebServer`: files on a free port of this machine, with logins, redirects, and faults that a test orders."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from corral.plugins.testing.fake_registry_connection import FakeConnection
from corral.plugins.testing.fake_registry_state import Fault, RegistryState, SeenRequest

__all__ = ("FakeWebServer",)

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class FakeWebServer(RegistryState):
    """Listens on real sockets until it is closed; a context manager. Each request has a thread of its own.

    `files` are bytes by path; `answers` are status, body and headers by path with its query, which come first; with a
    `demand`, requests need it as their ``Authorization``. `seen` has all requests. With `tls`, it speaks TLS.
    """

    def __init__(self, files: Mapping[str, bytes] = {}, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.files = dict(files)
        self.answers: dict[str, tuple[int, bytes, Mapping[str, str]]] = {}
        self.demand = ""
        self.has_versions = True
        self.types: dict[str, str] = {}
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.state = self
        self._server.tls = tls
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{'http' if tls is None else 'https'}://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening, and ends the requests that are being stalled."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def redirect(self, path: str, location: str) -> None:
        """Requests of `path` are sent elsewhere."""
        self.answers[path] = (302, b"", {"Location": location})

    def fault(self, method: str, pattern: str, do: Callable[[Any], None], times: int = 1) -> None:
        """The next requests with this method whose path contains the regular expression are answered by `do`."""
        self.faults.append(Fault(method=method, pattern=pattern, do=do, times=times))

    def requests_of(self, path: str) -> list[SeenRequest]:
        """Those of a path, whatever their query."""
        return [one for one in self.seen if one.path.partition("?")[0] == path]


class _Connection(FakeConnection):
    def answer_as_usual(self) -> None:
        server: FakeWebServer = self.state  # type: ignore[assignment]
        if server.demand and self.headers.get("authorization") != server.demand:
            self.reply(401, b"", {"WWW-Authenticate": 'Basic realm="files"'})
            return
        if self.path in server.answers:
            self.reply(*server.answers[self.path])
            return
        path = unquote(urlsplit(self.path).path)
        data = server.files.get(path)
        if data is None:
            self.reply(404, b"no such file")
            return
        headers = {"Content-Type": server.types.get(path, "application/octet-stream")}
        if server.has_versions:
            headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        asked = _RANGE.fullmatch(self.headers.get("range", "")) if server.knows_ranges else None
        if asked is None:
            self.reply(200, data, headers)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
        if start >= len(data):
            self.reply(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
            return
        self.reply(206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    state: RegistryState
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave, and refuse certificates; tests see what comes of that."""
