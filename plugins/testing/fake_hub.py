"""Lets a `FakeWebServer` answer for repositories as Hugging Face's hub does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from corral.plugins.testing.fake_web_server import FakeWebServer

__all__ = ("serve_repository",)

_LARGE = (".gguf", ".onnx", ".data", ".safetensors")


def serve_repository(
    server: FakeWebServer, repository: str, files: Mapping[str, bytes], *, revision: str = "main", page: int = 1000
) -> str:
    """Serves these files, of which lists show `page` at a time; answers with the commit. Large ones have digests."""
    commit = hashlib.sha1(repr(sorted(files)).encode(), usedforsecurity=False).hexdigest()
    api = f"/api/models/{repository}"
    server.answers[f"{api}/revision/{revision}"] = (200, json.dumps({"id": repository, "sha": commit}).encode(), {})
    entries = [_entry(path, data) for path, data in files.items()]
    folders = {path.rpartition("/")[0] for path in files if "/" in path}
    entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
    for start in range(0, len(entries), page):
        listing = f"{api}/tree/{commit}?recursive=true"
        following = f"{listing}&cursor={start + page}"
        headers = {"Link": f'<{server.url}{following}>; rel="next"'} if start + page < len(entries) else {}
        here = listing if start == 0 else f"{listing}&cursor={start}"
        server.answers[here] = (200, json.dumps(entries[start : start + page]).encode(), headers)
    server.files |= {f"/{repository}/resolve/{commit}/{path}": data for path, data in files.items()}
    return commit


def _entry(path: str, data: bytes) -> dict[str, object]:
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if path.endswith(_LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
