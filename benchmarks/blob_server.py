"""A registry with one model of random bytes, for measuring transfers: ``python -m benchmarks.blob_server FILE``.

It sends ranges of the file without reading them, and hashes and stores what it gets, as registries do. The port is the
first line of its output.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ("main",)

_CHUNK_BYTES = 1 << 20
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.ollama.image.model"


class _Upload:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self.hash = hashlib.sha256()
        self.size_bytes = 0

    def take(self, source: Any, length: int) -> None:
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while length and (count := source.readinto(buffer[: min(length, _CHUNK_BYTES)])):
            self.hash.update(buffer[:count])
            self.file.write(buffer[:count])
            self.size_bytes += count
            length -= count

    def end(self) -> str:
        self.file.close()
        self.path.unlink()
        return f"sha256:{self.hash.hexdigest()}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    file: Path
    digest: str
    config = b'{"model_format":"gguf","model_family":"random"}'
    uploads: dict[str, _Upload] = {}  # noqa: RUF012  # shared by all handlers on purpose

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self._answer(200)
        elif "/manifests/" in self.path:
            self._answer(200, self._manifest(), _MANIFEST_TYPE)
        elif self.path.endswith(f"sha256:{hashlib.sha256(self.config).hexdigest()}") and "/bench/" in self.path:
            self._answer(200, self.config)
        elif self.path == "/blob" or (self.path.endswith(self.digest) and "/bench/" in self.path):
            self._send_file()
        else:
            self._answer(404)

    def do_POST(self) -> None:
        name = uuid.uuid4().hex
        self.uploads[name] = _Upload(self.file.with_name(name))
        self._answer(202, location=f"{self.path.partition('?')[0].rstrip('/')}/{name}")

    def do_PATCH(self) -> None:
        upload = self.uploads[self.path.partition("?")[0].rpartition("/")[2]]
        upload.take(self.rfile, int(self.headers["Content-Length"]))
        self._answer(202, location=self.path, range=f"0-{upload.size_bytes - 1}")

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        if "/manifests/" in parts.path:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(201, digest=f"sha256:{hashlib.sha256(data).hexdigest()}")
            return
        name = parts.path.rpartition("/")[2]
        upload = self.uploads.pop(name, None) or _Upload(self.file.with_name(uuid.uuid4().hex))
        upload.take(self.rfile, int(self.headers.get("Content-Length", 0)))
        found = upload.end()
        wanted = parse_qs(parts.query).get("digest", [found])[0]
        self._answer(201 if found == wanted else 400, digest=found, location=f"/v2/x/blobs/{found}")

    def log_message(self, format: str, *arguments: object) -> None: ...

    def _manifest(self) -> bytes:
        config = {
            "mediaType": _CONFIG_TYPE,
            "digest": f"sha256:{hashlib.sha256(self.config).hexdigest()}",
            "size": len(self.config),
        }
        layer = {"mediaType": _LAYER_TYPE, "digest": self.digest, "size": self.file.stat().st_size}
        return json.dumps(
            {"schemaVersion": 2, "mediaType": _MANIFEST_TYPE, "config": config, "layers": [layer]}
        ).encode()

    def _send_file(self) -> None:
        size_bytes = self.file.stat().st_size
        start, end = 0, size_bytes
        found = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found:
            start, end = int(found[1]), int(found[2]) + 1 if found[2] else size_bytes
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(end - start))
        if found:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size_bytes}")
        self.end_headers()
        self.wfile.flush()
        if self.command == "HEAD":
            return
        with self.file.open("rb") as file:
            try:
                while start < end:
                    start += os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)
            except OSError:  # the client has what it wants
                self.close_connection = True

    def _answer(self, status: int, body: bytes = b"", media_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", media_type)
        for name, text in headers.items():
            self.send_header("Docker-Content-Digest" if name == "digest" else name.capitalize(), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main(file: Path) -> None:
    """Serves until it is ended."""
    _Handler.file = file
    with file.open("rb") as data:
        _Handler.digest = f"sha256:{hashlib.file_digest(data, 'sha256').hexdigest()}"
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
