"""`FakeWebServer`: files on a free port of this machine, with logins, redirects, and faults that a test orders."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from corral.plugins.testing.fake_registry_connection import FakeConnection
from corral.plugins.testing.fake_registry_state import SeenRequest
from corral.plugins.testing.fake_server import FakeServer

__all__ = ("FakeWebServer",)

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class FakeWebServer(FakeServer):
    """A `FakeServer` of files.

    `files` are bytes by path; `answers` are status, body and headers by path with its query, which come first; with a
    `demand`, requests need it as their ``Authorization``.
    """

    def __init__(self, files: Mapping[str, bytes] = {}, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(_Connection, tls)
        self.files = dict(files)
        self.answers: dict[str, tuple[int, bytes, Mapping[str, str]]] = {}
        self.demand = ""
        self.has_versions = True
        self.types: dict[str, str] = {}

    def redirect(self, path: str, location: str) -> None:
        """Requests of `path` are sent elsewhere."""
        self.answers[path] = (302, b"", {"Location": location})

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
