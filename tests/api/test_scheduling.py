"""What clients see of the model scheduler: who is next, what a full queue says, loads that fail, and ``/api/ps``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from corral.adapters.engines.fake import SPEC
from corral.adapters.engines.fake.spec import load
from corral.core.ports.engines import StepEngine
from corral.core.ports.runners import OnLoadProgress
from corral.core.scheduling.settings import SchedulerSettings
from corral.core.specs.engines import LoadRequest

Within = Callable[[float, Callable[[], bool]], bool]

MODEL = "smol:q4"
ENDLESS = {"ignore_eos": True, "num_predict": 1_000_000, "num_ctx": 1 << 30}
ONE_STREAM = {"parallel": 1, "step_delay_s": 0.001, "num_ctx": 1 << 30}
BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}
STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama "
    "server logs for details: "
)


def body(path: str, number: int, **options: Any) -> dict[str, Any]:
    options = ENDLESS | options
    if path == "/api/chat":
        return {"model": MODEL, "messages": [{"role": "user", "content": f"client {number}"}], "options": options}
    return {"model": MODEL, "prompt": f"client {number}", "options": options}


class Client:
    """A request for an endless answer, and whether it has begun."""

    def __init__(self, crowd: Crowd, path: str) -> None:
        self.begun = asyncio.Event()
        self._crowd = crowd
        self._task = crowd.tasks.create_task(self._read(path))

    async def _read(self, path: str) -> None:
        async with self._crowd.http.stream("POST", path, json=body(path, self._crowd.count)) as response:
            assert response.status_code == 200
            async for _ in response.aiter_lines():
                self.begun.set()

    async def leave(self) -> None:
        """Leave, and wait until the server has noticed."""
        self._crowd.clients.remove(self)
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._crowd.counts(-1)


class Crowd:
    """The clients of a server; `http` is for other requests to it."""

    def __init__(self, server: Any, within: Within, http: httpx.AsyncClient, tasks: asyncio.TaskGroup) -> None:
        self.http = http
        self.tasks = tasks
        self.clients: list[Client] = []
        self.count = 0
        self._server = server
        self._within = within

    async def come(self, path: str) -> Client:
        """Send a request, and return its client once the request waits or runs."""
        client = Client(self, path)
        self.clients.append(client)
        await self.counts(1)
        return client

    async def counts(self, more: int) -> None:
        self.count += more
        assert await asyncio.to_thread(self._within, 30, lambda: self._server.active() == self.count)


def with_crowd(server: Any, within: Within, check: Callable[[Crowd], Awaitable[None]]) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(120),
            httpx.AsyncClient(base_url=server.url, timeout=60) as http,
            asyncio.TaskGroup() as tasks,
        ):
            crowd = Crowd(server, within, http, tasks)
            await check(crowd)
            for client in tuple(crowd.clients):
                await client.leave()

    asyncio.run(main())


def test_those_who_wait_are_served_in_order(start_server: Callable[..., Any], within: Within) -> None:
    """Chats and completions get the only stream in the order in which they came, however many come after them; one
    that leaves, while it waits or while it is answered, frees its place for the next."""

    async def check(crowd: Crowd) -> None:
        waiting = [await crowd.come(path) for path in ("/api/chat", "/api/generate", "/api/generate", "/api/chat")]
        await waiting.pop(2).leave()
        for path in ("/api/generate", "/api/chat", "/api/chat", "/api/generate"):
            first, *others = waiting
            await first.begun.wait()
            waiting.append(await crowd.come(path))
            assert not any(other.begun.is_set() for other in others)
            await waiting.pop(0).leave()
        await waiting[0].begun.wait()

    with start_server(ONE_STREAM) as server:
        with_crowd(server, within, check)


def test_embeddings_do_not_wait_for_answers(start_server: Callable[..., Any], within: Within) -> None:
    """Hundreds of inputs are embedded while an endless answer has the only stream and others wait for it."""

    async def check(crowd: Crowd) -> None:
        clients = [await crowd.come(path) for path in ("/api/generate", "/api/chat")]
        await clients[0].begun.wait()
        inputs = [f"text {number}" for number in range(300)]
        reply = await crowd.http.post("/api/embed", json={"model": MODEL, "input": inputs})
        assert len(reply.json()["embeddings"]) == 300
        assert not clients[1].begun.is_set()

    with start_server(ONE_STREAM) as server:
        with_crowd(server, within, check)


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/api/generate", {"prompt": "x"}),
        ("/api/generate", {}),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}),
        ("/api/embed", {"input": "x"}),
        ("/api/embeddings", {"prompt": "x"}),
    ],
)
def test_a_full_queue(start_server: Callable[..., Any], within: Within, path: str, given: dict[str, Any]) -> None:
    """Beyond `max_queue` waiting requests, every kind gets 503 with Ollama's text; once one has left, there is room."""

    async def check(crowd: Crowd) -> None:
        first, second = await crowd.come("/api/generate"), await crowd.come("/api/chat")
        await first.begun.wait()
        refused = await crowd.http.post(path, json={"model": MODEL, **given})
        assert (refused.status_code, refused.json()) == (503, BUSY)
        assert refused.headers["content-type"].startswith("application/json")
        await second.leave()
        third = await crowd.come("/api/chat")
        await first.leave()
        await third.begun.wait()

    with start_server(ONE_STREAM, scheduler=SchedulerSettings(max_queue=1)) as server:
        with_crowd(server, within, check)


# ── Loads ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


_gate = threading.Event()


def load_behind_the_gate(request: LoadRequest, on_progress: OnLoadProgress) -> StepEngine:
    on_progress(0.5)
    assert _gate.wait(60)
    return load(request, on_progress)


GATED = msgspec.structs.replace(SPEC, name="gated", load="tests.api.test_scheduling:load_behind_the_gate")


@contextmanager
def while_loading(server: Any, within: Within, **given: Any) -> Iterator[Any]:
    """A request for a model that is loading during the block; yields a function that ends the load, and returns the
    reply."""
    _gate.clear()
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack:
        stack.callback(_gate.set)
        request = {"model": MODEL, "prompt": "x", "stream": False, "options": {"engine": "gated"}} | given
        pending = threads.submit(httpx.post, f"{server.url}/api/generate", json=request, timeout=60)
        assert within(30, lambda: server.loads() == 1)

        def done() -> httpx.Response:
            _gate.set()
            return pending.result(60)

        yield done


def test_a_load_blocks_nothing_else(start_server: Callable[..., Any], within: Within) -> None:
    """While a model loads, the list of running models is what is in memory, and a loaded model answers."""
    with start_server(engines=(SPEC, GATED)) as server, httpx.Client(base_url=server.url, timeout=60) as client:

        def running() -> list[tuple[str, int]]:
            return [(one["name"], one["corral"]["active"]) for one in client.get("/api/ps").json()["models"]]

        other = {"model": "other", "prompt": "x", "stream": False, "keep_alive": "1h"}
        assert client.post("/api/generate", json=other).status_code == 200
        with while_loading(server, within) as done:
            assert running() == [("other:latest", 0)]
            assert client.post("/api/generate", json=other).json()["done"]
            assert running() == [("other:latest", 0)]
            assert done().json()["done"]
        assert running() == [("other:latest", 0), (MODEL, 0)]
        assert client.post("/api/generate", json={"model": MODEL, "keep_alive": 0}).json()["done_reason"] == "unload"
        assert running() == [("other:latest", 0)]


def test_a_client_that_leaves_during_the_load(start_server: Callable[..., Any], within: Within) -> None:
    """The load ends with the last client that waits for it, and the model is not in memory."""

    async def leave_while_it_loads(server: Any) -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            given = {"model": MODEL, "options": {"engine": "gated"}}
            waiting = [asyncio.create_task(http.post(path, json=given)) for path in ("/api/chat", "/api/generate")]
            assert await asyncio.to_thread(within, 30, lambda: server.loads() == 1)
            for client in waiting:
                client.cancel()
            await asyncio.wait(waiting)

    _gate.clear()
    with start_server(engines=(SPEC, GATED)) as server:
        try:
            asyncio.run(leave_while_it_loads(server))
            assert within(30, lambda: server.loads() == 0)
        finally:
            _gate.set()
        assert httpx.get(f"{server.url}/api/ps").json() == {"models": []}


def test_a_load_that_stalls(start_server: Callable[..., Any], tmp_path: Path) -> None:
    """It is given up after the time without progress, its process ends, and the text begins as Ollama's."""
    scheduler = SchedulerSettings(load_timeout_s=0.2)
    with start_server({"hang_on_load": True}, root=tmp_path, runner="process", scheduler=scheduler) as server:
        reply = httpx.post(f"{server.url}/api/chat", json={"model": MODEL}, timeout=60)
        assert reply.status_code == 500
        said = "timed out waiting for llama-server to start - loading smol:q4 made no progress for 0.2 s; raise"
        assert reply.json()["error"].startswith(said)
        assert httpx.get(f"{server.url}/api/ps").json() == {"models": []}


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        ({"crash_on_load": True}, "llama-server process has terminated: the process of smol:q4 was killed by SIGKILL"),
        ({"crash_after": 1}, f"{STOPPED}the process of smol:q4 was killed by SIGKILL"),
    ],
)
def test_a_process_that_dies(
    start_server: Callable[..., Any], tmp_path: Path, engine: dict[str, Any], text: str
) -> None:
    """The error begins with Ollama's text and says how it died; the model is no longer listed."""
    with start_server(engine, root=tmp_path, runner="process") as server:
        request = {"model": MODEL, "prompt": "x", "stream": False}
        reply = httpx.post(f"{server.url}/api/generate", json=request, timeout=60)
        assert reply.status_code == 500
        assert reply.json()["error"].startswith(text)
        assert httpx.get(f"{server.url}/api/ps").json() == {"models": []}


def test_the_context_of_a_model_that_sees_images(start_server: Callable[..., Any]) -> None:
    """It holds 2,048 tokens at least, as in Ollama: one image takes hundreds."""
    with start_server() as server:
        for name, capabilities in (("sees", ("completion", "vision")), ("blind", ("completion",))):
            server.call(lambda _, name=name, can=capabilities: server.world.add(name, capabilities=can))
            httpx.post(f"{server.url}/api/generate", json={"model": name, "options": {"num_ctx": 8}}, timeout=60)
        models = httpx.get(f"{server.url}/api/ps").json()["models"]
        assert {one["model"]: one["context_length"] for one in models} == {"sees:latest": 2048, "blind:latest": 8}


def test_who_waits_is_counted(start_server: Callable[..., Any], within: Within) -> None:
    """Requests that wait for a stream count as using the model."""

    async def check(crowd: Crowd) -> None:
        for count in (1, 2, 3):
            await crowd.come("/api/chat")
            [listed] = (await crowd.http.get("/api/ps")).json()["models"]
            assert listed["corral"]["active"] == count

    with start_server(ONE_STREAM) as server:
        with_crowd(server, within, check)
