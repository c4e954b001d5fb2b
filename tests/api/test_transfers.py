"""Models are pulled and pushed over HTTP, with Ollama's events, texts and statuses."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.api.http.ollama.replies import StatusReply
from corral.api.http.ollama.status_events import StatusEvents
from corral.core.models.digests import Digest, digest_of
from corral.core.models.references import Reference, parse_reference
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.plugins.testing.gguf import gguf_bytes
from corral.plugins.testing.registry import MemoryRegistry, push_model

CONFIG = b'{"model_format":"gguf","model_family":"llama"}'
WEIGHTS = gguf_bytes()
LAYERS = (("application/vnd.ollama.image.model", WEIGHTS), ("application/vnd.ollama.image.license", b"Free."))
DIGESTS = [digest_of(data) for data in (CONFIG, WEIGHTS, b"Free.")]

Start = Callable[..., Any]
Within = Callable[[float, Callable[[], bool]], bool]


class Holding(MemoryRegistry):
    """Holds back the bytes of blobs until `released`, and counts the fetches that are running."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()
        self.released.set()
        self.running = 0

    async def fetch(
        self, reference: Reference, blob: Digest, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        self.running += 1
        try:
            await self.released.wait()
            async for chunk in super().fetch(reference, blob, start, end):
                yield chunk
        finally:
            self.running -= 1


@pytest.fixture(scope="module")
def server(start_server: Start) -> Iterator[Any]:
    registry = Holding()
    asyncio.run(publish(registry, "house/small:q4"))
    with start_server(registry=registry) as server:
        yield server


@pytest.fixture
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


async def publish(registry: MemoryRegistry, name: str, *more: tuple[str, bytes]) -> bytes:
    return await push_model(registry, parse_reference(name), CONFIG, *LAYERS, *more)


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.post(path, json=body)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def names(client: httpx.Client) -> dict[str, str]:
    return {model["name"]: model["digest"] for model in client.get("/api/tags").json()["models"]}


def test_the_events_of_a_pull(client: httpx.Client) -> None:
    """The manifest, each blob with its counts, verifying, writing, success; also for a model that is there already."""
    for _ in range(2):
        first, *blobs, verifying, writing, last = events(client, "/api/pull", {"model": "house/small:q4"})
        assert first == {"status": "pulling manifest"}
        complete = {event["digest"]: event for event in blobs}
        assert set(complete) == set(DIGESTS)
        for digest, event in complete.items():
            assert event["status"] == f"pulling {digest[7:19]}"
            assert event["completed"] == event["total"]
        assert verifying == {"status": "verifying sha256 digest"}
        assert writing == {"status": "writing manifest"}
        assert last == {"status": "success", "model": "house/small:q4"}
    assert "house/small:q4" in names(client)


def test_a_new_version_removes_what_only_the_old_one_had(server: Any, client: httpx.Client) -> None:
    """The event for it comes after the manifest is written, and the old layer is gone."""

    def republish(*more: tuple[str, bytes]) -> None:
        server.call(lambda _: publish(server.world.registry, "house/renewed", *more))

    old = ("application/vnd.ollama.image.system", b"Be brief.")
    republish(old)
    events(client, "/api/pull", {"model": "house/renewed"})
    republish()
    told = [event["status"] for event in events(client, "/api/pull", {"model": "house/renewed"})]
    assert told[-3:] == ["writing manifest", "removing unused layers", "success"]
    assert server.call(lambda _: server.world.blobs.stat(digest_of(b"Be brief."))) is None


def test_a_pull_that_is_not_streamed(client: httpx.Client) -> None:
    """One object; the older name of the field works, `insecure` is accepted, and the model may get another name."""
    body = {"name": "house/small:q4", "stream": False, "insecure": True, "destination": "mine"}
    response = client.post("/api/pull", json=body)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {"status": "success", "model": "mine:latest"}
    assert "mine:latest" in names(client)


def test_a_model_that_the_registry_does_not_have(client: httpx.Client) -> None:
    """The stream has begun when that is known; without a stream, it is status 500."""
    text = "pull model manifest: file does not exist"
    for model in ("house/absent", "mem://house/absent"):
        assert events(client, "/api/pull", {"model": model}) == [{"status": "pulling manifest"}, {"error": text}]
    response = client.post("/api/pull", json={"model": "house/absent", "stream": False})
    assert (response.status_code, response.json()) == (500, {"error": text})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/pull", {}, 400, "invalid model name"),
        ("/api/pull", {"model": "a b"}, 400, "invalid model name"),
        ("/api/pull", {"model": "m", "destination": "a b"}, 400, 'destination "a b" is invalid'),
        ("/api/pull", {"model": "x:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ("/api/push", {}, 400, "model is required"),
        ("/api/push", {"model": "  "}, 400, "model is required"),
        ("/api/push", {"model": "a b"}, 500, "unqualified name: a b"),
    ],
)
def test_a_name_that_is_refused(
    client: httpx.Client, path: str, body: dict[str, Any], status: int, text: str, stream: bool
) -> None:
    """Nothing is streamed then: the status says it."""
    response = client.post(path, json=body | {"stream": stream})
    assert (response.status_code, response.json()) == (status, {"error": text})


def test_a_scheme_that_nothing_reads(client: httpx.Client) -> None:
    """Status 400, with the schemes that there are."""
    response = client.post("/api/pull", json={"model": "carrier-pigeon://x"})
    assert response.status_code == 400
    assert "references start with one of: mem://" in response.json()["error"]


@pytest.mark.parametrize("path", ["/api/pull", "/api/create"])
def test_no_client_reads_files_of_the_server(client: httpx.Client, tmp_path: Path, path: str) -> None:
    """file:// is for the command line and the library, even if there is such a file."""
    file = tmp_path / "tiny.gguf"
    file.write_bytes(WEIGHTS)
    body = {"model": file.as_uri()} if path == "/api/pull" else {"model": "stolen", "from": file.as_uri()}
    answer = client.post(path, json={**body, "stream": False})
    assert answer.status_code == 400
    assert "file:// names no file of the server's" in answer.json()["error"]


def test_a_blob_that_is_not_what_the_manifest_says(server: Any, client: httpx.Client) -> None:
    """The last line is an error, and there is no model."""

    async def spoil(_: Any) -> None:
        registry = server.world.registry
        await publish(registry, "house/lying", ("application/vnd.ollama.image.system", b"Be kind."))
        registry._repositories["house/lying"].blobs[digest_of(b"Be kind.")] = b"Be mean."

    server.call(spoil)
    told = events(client, "/api/pull", {"model": "house/lying"})
    assert told[0] == {"status": "pulling manifest"}
    kind, mean = digest_of(b"Be kind."), digest_of(b"Be mean.")
    text = f"digest mismatch, file must be downloaded again: want {kind}, got {mean}"
    assert told[-1] == {"error": text}
    assert "house/lying:latest" not in names(client)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves(server: Any, client: httpx.Client, within: Within, stream: bool) -> None:
    """Its pull ends, and the next one gets the model."""
    registry = server.world.registry

    async def hold(_: Any) -> None:
        await publish(registry, f"house/left-{stream}", ("x/y", f"layer {stream}".encode()))
        registry.released.clear()

    async def release(_: Any) -> None:
        registry.released.set()

    server.call(hold)
    body = json.dumps({"model": f"house/left-{stream}", "stream": stream}).encode()
    head = f"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + body)
        assert within(30, lambda: registry.running > 0)
    assert within(30, lambda: registry.running == 0)
    server.call(release)
    assert events(client, "/api/pull", {"model": f"house/left-{stream}"})[-1]["status"] == "success"


def test_the_events_of_a_push(server: Any, client: httpx.Client) -> None:
    """The manifest, each blob with its counts, the manifest's sending, success; under the model's own name."""
    client.post("/api/pull", json={"model": "house/small:q4", "destination": "me/pushed"})
    first, *blobs, sending, last = events(client, "/api/push", {"model": "me/pushed"})
    assert first == {"status": "retrieving manifest"}
    complete = {event["digest"]: event for event in blobs}
    assert set(complete) == set(DIGESTS)
    for digest, event in complete.items():
        assert event["status"] == f"pushing {digest[7:19]}"
        assert event["completed"] == event["total"]
    assert sending == {"status": "pushing manifest"}
    manifest = server.call(lambda _: server.world.registry.manifest(parse_reference("me/pushed")))
    assert last == {"status": "success", "manifest": digest_of(manifest.data)}
    assert digest_of(manifest.data).removeprefix("sha256:") == names(client)["me/pushed:latest"]


def test_a_push_to_another_place(server: Any, client: httpx.Client) -> None:
    """`destination` is a reference; without a stream, the answer is one object."""
    client.post("/api/pull", json={"model": "house/small:q4", "destination": "mine"})
    body = {"model": "mine", "destination": "mem://me/other:1", "stream": False}
    response = client.post("/api/push", json=body)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    manifest = server.call(lambda _: server.world.registry.manifest(parse_reference("mem://me/other:1")))
    assert response.json() == {"status": "success", "manifest": digest_of(manifest.data)}


def test_a_push_of_what_is_not_there(client: httpx.Client) -> None:
    """The stream has begun when that is known; without a stream, it is status 500."""
    assert events(client, "/api/push", {"model": "me/absent"}) == [
        {"status": "retrieving manifest"},
        {"status": "couldn't retrieve manifest"},
        {"error": "model 'me/absent:latest' not found"},
    ]
    assert client.post("/api/push", json={"model": "me/absent", "stream": False}).status_code == 500


def test_what_happens_between_two_lines_becomes_one() -> None:
    """Of a blob, only the latest state is sent, and the order in which things began is kept."""
    sent: list[Any] = []

    async def work(report: OnProgress) -> StatusReply:
        for done in range(1000):
            report(FetchProgress(status="pulling a", digest=DIGESTS[0], total_bytes=1000, completed_bytes=done + 1))
            report(FetchProgress(status="pulling b", digest=DIGESTS[1], total_bytes=2000, completed_bytes=2 * done))
        report(FetchProgress(status="writing manifest"))
        return StatusReply(status="success")

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        scope: Any = {"type": "http", "path": "/", "state": {}}
        await StatusEvents(work, stream=True)(scope, None, send)  # type: ignore[arg-type]  # nothing is received

    asyncio.run(main())
    lines = [json.loads(message["body"]) for message in sent if message["type"] == "http.response.body"]
    assert [(line["status"], line.get("completed")) for line in lines] == [
        ("pulling a", 1000),
        ("pulling b", 1998),
        ("writing manifest", None),
        ("success", None),
    ]
