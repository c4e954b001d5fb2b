"""``/api/blobs/:digest``: uploads of any size, which are written while they arrive and stay until the server stops."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.core.models.digests import Digest, digest_of

BIG_BYTES = int(os.environ.get("CORRAL_UPLOAD_BYTES", 6 * 1024 * 1024))
"""How much is uploaded to see that nothing holds it in memory."""


def blobs(server: Any) -> set[Digest]:
    async def found(_: Any) -> set[Digest]:
        return {info.digest async for info in server.world.blobs.list()}

    blobs: set[Digest] = server.call(found)
    return blobs


@pytest.fixture(scope="module")
def stored(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with a store of files, which takes request bodies of at most a megabyte."""
    root = tmp_path_factory.mktemp("store")
    with start_server(root=root, max_body_bytes=1 << 20) as server:
        server.root = root
        yield server


@pytest.fixture
def uploads(stored: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stored.url, timeout=60) as client:
        yield client


def test_a_blob_is_uploaded_once(uploads: httpx.Client, stored: Any) -> None:
    """404 before, 201 for the upload, 200 from then on, also in the digest's other spelling; no body in answers."""
    path = f"/api/blobs/{digest_of(b'hello')}"
    assert uploads.head(path).status_code == 404
    first = uploads.post(path, content=b"hello")
    assert (first.status_code, first.content) == (201, b"")
    assert uploads.head(path).status_code == 200
    assert uploads.head(path.replace("sha256:", "sha256-")).status_code == 200
    assert uploads.post(path, content=b"anything else").status_code == 200
    assert digest_of(b"hello") in blobs(stored)


def test_the_wrong_bytes(uploads: httpx.Client, stored: Any) -> None:
    """A mismatch is 400 with both digests, and leaves neither blob behind."""
    wanted, got = digest_of(b"right"), digest_of(b"wrong")
    response = uploads.post(f"/api/blobs/{wanted}", content=b"wrong")
    assert response.status_code == 400
    assert response.json() == {"error": f'digest mismatch, expected "{wanted}", got "{got}"'}
    assert not {wanted, got} & blobs(stored)
    assert uploads.head(f"/api/blobs/{wanted}").status_code == 404


@pytest.mark.parametrize("digest", ["sha256:12", "x", "sha256:" + "g" * 64, "md5:" + "0" * 64, "..%2f..%2fetc"])
def test_what_is_no_digest(uploads: httpx.Client, digest: str) -> None:
    """Anything but a digest is 400, with Ollama's text, or no path at all."""
    response = uploads.post(f"/api/blobs/{digest}", content=b"x")
    assert response.status_code in (400, 404)
    if response.status_code == 400:
        assert response.json() == {"error": "invalid digest format"}
        assert uploads.head(f"/api/blobs/{digest}").status_code == 400


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_blob_larger_than_the_limit_of_bodies(uploads: httpx.Client, stored: Any, is_announced: bool) -> None:
    """Bodies larger than the limit of other routes pass through, with a length or in chunks, a few pieces at a time."""
    piece = os.urandom(64 * 1024)
    count = BIG_BYTES // len(piece)
    total = hashlib.sha256()
    for number in range(count):
        total.update(piece[number % 7 :])
    size = sum(len(piece) - number % 7 for number in range(count))

    def body() -> Iterator[bytes]:
        for number in range(count):
            yield piece[number % 7 :]

    salt = b"" if is_announced else b"!"
    total.update(salt)
    headers = {"content-length": str(size)} if is_announced else {}

    def salted() -> Iterator[bytes]:
        yield from body()
        if salt:
            yield salt

    response = uploads.post(f"/api/blobs/sha256:{total.hexdigest()}", content=salted(), headers=headers)
    assert response.status_code == 201
    file = stored.root / "blobs" / f"sha256-{total.hexdigest()}"
    assert file.stat().st_size == size + len(salt)


def test_many_upload_one_blob_at_once(uploads: httpx.Client) -> None:
    """Each of several clients that upload the same bytes succeeds."""
    data = b"at once" * 100_000
    start = threading.Barrier(6)

    def upload(_: int) -> int:
        start.wait()
        return uploads.post(f"/api/blobs/{digest_of(data)}", content=data).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(upload, range(6))) <= {200, 201}


def test_a_client_that_leaves(uploads: httpx.Client, stored: Any, within: Any) -> None:
    """Half an upload leaves nothing behind, and the blob can be uploaded afterwards."""
    data = b"half" * 500_000
    digest = digest_of(data)
    head = f"POST /api/blobs/{digest} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
    partials = stored.root / ".corral"

    def files() -> list[Path]:
        return [path for path in partials.rglob("scratch-*") if path.is_file()]

    with socket.create_connection(("127.0.0.1", stored.port)) as connection:
        connection.sendall(head.encode() + data[:1_500_000])
        assert within(30, lambda: bool(files()))
    assert within(30, lambda: not files())
    assert digest not in blobs(stored)
    assert uploads.post(f"/api/blobs/{digest}", content=data).status_code == 201


def test_an_uploaded_blob_outlives_models(uploads: httpx.Client, stored: Any) -> None:
    """Deleting or replacing a model leaves the blobs that clients uploaded, or were told not to upload."""
    kept, told, gone = b"weights kept", b"weights told", b"weights gone"
    assert uploads.post(f"/api/blobs/{digest_of(kept)}", content=kept).status_code == 201
    for name, data in (("kept", kept), ("told", told), ("gone", gone)):
        stored.call(lambda _, name=name, data=data: stored.world.add(name, data=data))
    assert uploads.head(f"/api/blobs/{digest_of(told)}").status_code == 200
    assert uploads.post("/api/copy", json={"source": "smol:q4", "destination": "told"}).status_code == 200
    for name in ("kept", "told", "gone"):
        assert uploads.request("DELETE", "/api/delete", json={"model": name}).status_code == 200
    left = blobs(stored)
    assert {digest_of(kept), digest_of(told)} <= left
    assert digest_of(gone) not in left


def test_many_small_chunks_are_refused(stored: Any) -> None:
    """Chunks may be as many as they like if they are large; hundreds of thousands of tiny ones are refused."""
    digest = digest_of(b"x" * 270_000)
    head = f"POST /api/blobs/{digest} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", stored.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"1\r\nx\r\n" * 270_000 + b"0\r\n\r\n")
        assert connection.recv(200).startswith(b"HTTP/1.1 413 ")
