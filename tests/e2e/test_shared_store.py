"""Two servers and a command line on one store, all at work, and servers that are killed: the store stays consistent.

``CORRAL_SHARED_STORE_S=300`` lets them work for five minutes, ``CORRAL_KILLS=50`` kills a server as many times.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.core.models.digests import digest_of
from corral.core.models.names import parse_name
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.gguf import SMALL_MODEL, TensorEntry, gguf_bytes
from tests.unit.store_checks import check_store, collect_all
from tests.unit.store_worker import catalog_at

KILLS = int(os.environ.get("CORRAL_KILLS", "0"))
LASTS_S = float(os.environ.get("CORRAL_SHARED_STORE_S", "0"))
NAMES = ("a", "b", "c", "d")
_GONE = (404,)  # another client has deleted the model: that is this request's own reason


def _weights(number: int) -> bytes:
    data = random.Random(number).randbytes(512 * 1024)
    tensor = TensorEntry("token_embd.weight", (len(data) // 4,), 0, len(data), data)
    return gguf_bytes({**SMALL_MODEL, "general.name": f"model {number}"}, [tensor])


class Client:
    """Sends random requests to one server, and notes what should not have happened."""

    def __init__(self, url: str, registry: str, seed: int) -> None:
        self._http = httpx.Client(base_url=url, timeout=120)
        self._registry = registry
        self._dice = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []
        self.there: dict[str, bool] = {}
        """What the answers to the client's own requests imply about models that only this client changes."""

    def work(self, until: float) -> None:
        while time.monotonic() < until:
            try:
                self.step()
            except Exception as error:  # noted, so that the test says all that went wrong
                self.faults.append(repr(error))

    def step(self) -> None:
        """One random request."""
        ways = (self.copy, self.delete, self.list, self.show, self.chat, self.create, self.pull, self.push)
        way, name = self._dice.choice(ways), self._dice.choice(NAMES)
        changes = way in (self.copy, self.delete, self.create, self.pull)
        if changes:
            self.there.pop(name, None)  # not known until there is an answer
        reply = way(name)
        if changes and reply.is_success:
            self.there[name] = way != self.delete
        self.done[way.__name__] += 1

    def close(self) -> None:
        self._http.close()

    def copy(self, name: str) -> httpx.Response:
        return self._post("/api/copy", {"source": self._dice.choice((*NAMES, "keep")), "destination": name})

    def delete(self, name: str) -> httpx.Response:
        return self._check(self._http.request("DELETE", "/api/delete", json={"model": name}))

    def list(self, name: str) -> httpx.Response:
        reply = self._check(self._http.get("/api/tags"))
        assert "keep:latest" in [model["name"] for model in reply.json()["models"]]
        return reply

    def show(self, name: str) -> httpx.Response:
        return self._post("/api/show", {"model": name})

    def chat(self, name: str) -> httpx.Response:
        message = {"role": "user", "content": "Hi"}
        body = {"model": name, "messages": [message], "stream": False, "options": {"num_predict": 3}, "keep_alive": 0}
        return self._post("/api/chat", body)

    def create(self, name: str) -> httpx.Response:
        data = _weights(self._dice.randrange(3))
        digest = digest_of(data)
        self._check(self._http.post(f"/api/blobs/{digest}", content=data), gone=())
        return self._post("/api/create", {"model": name, "files": {"model.gguf": digest}, "stream": False}, gone=())

    def pull(self, name: str) -> httpx.Response:
        pulled = f"{self._registry}/house/{self._dice.choice(('one', 'two'))}"
        self._post("/api/pull", {"model": pulled, "insecure": True, "stream": False}, gone=())
        return self._post("/api/copy", {"source": pulled, "destination": name}, gone=())

    def push(self, name: str) -> httpx.Response:
        self._post("/api/copy", {"source": "keep", "destination": f"{self._registry}/house/mine"}, gone=())
        return self._post("/api/push", {"model": f"{self._registry}/house/mine", "insecure": True, "stream": False})

    def _post(self, path: str, body: dict[str, Any], gone: tuple[int, ...] = _GONE) -> httpx.Response:
        return self._check(self._http.post(path, json=body), gone)

    def _check(self, reply: httpx.Response, gone: tuple[int, ...] = _GONE) -> httpx.Response:
        if not reply.is_success and reply.status_code not in gone:
            request = reply.request
            self.faults.append(
                f"{request.method} {request.url.path} {request.content[:200]!r}: {reply.status_code} {reply.text}"
            )
        return reply


class Commands:
    """Calls the command line again and again."""

    def __init__(self, call: Callable[..., subprocess.CompletedProcess[str]], file: Path, seed: int) -> None:
        self._call = call
        self._file = file
        self._dice = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []

    def work(self, until: float) -> None:
        while True:
            name = self._dice.choice(NAMES)
            arguments = self._dice.choice(
                (
                    ("import", str(self._file), "--name", name),
                    ("cp", "keep", name),
                    ("rm", name),
                    ("list",),
                    ("gc",),
                    ("verify", "keep"),
                )
            )
            ended = self._call(*arguments)
            if ended.returncode != 0 and "not found" not in ended.stderr:
                self.faults.append(f"corral {' '.join(arguments)}: {ended.returncode} {ended.stderr} {ended.stdout}")
            self.done[f"corral {arguments[0]}"] += 1
            if time.monotonic() > until:
                return

    def close(self) -> None:
        pass


@pytest.mark.skipif(not LASTS_S, reason="the long form only")
def test_two_servers_and_commands_share_a_store(
    tmp_path: Path,
    user_at: Callable[..., dict[str, str]],
    run_corral: Callable[..., subprocess.CompletedProcess[str]],
    serve_corral: Callable[..., AbstractContextManager[Any]],
) -> None:
    """Copies, deletions, pulls, pushes, creations, imports and chats at once: each succeeds, or its model is gone."""
    environment = user_at(tmp_path, CORRAL_ENGINE="fake", HOME=str(tmp_path))
    root, file = tmp_path / "models", _stocked(tmp_path)
    with (
        FakeRegistry() as registry,
        serve_corral(environment) as one,
        serve_corral(environment, settings=("scheduler.runner=thread",)) as two,
    ):
        _fill(registry, one.url)
        workers: list[Client | Commands] = [
            Client(one.url, registry.host, 1),
            Client(two.url, registry.host, 2),
            Client(two.url, registry.host, 3),
            Commands(lambda *arguments: run_corral(environment, *arguments), file, 4),
        ]
        until = time.monotonic() + LASTS_S
        threads = [threading.Thread(target=worker.work, args=(until,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()
        faults = [fault for worker in workers for fault in worker.faults]
        print(sum((worker.done for worker in workers), Counter()))
        assert faults == []
        assert [server.process.poll() for server in (one, two)] == [None, None]
        log = [line for server in (one, two) for line in server.log]
        assert [line for line in log if "Traceback" in line or "ERROR" in line] == []
    assert "keep:latest" in asyncio.run(check_store(root))
    asyncio.run(collect_all(root))
    assert "keep:latest" in asyncio.run(check_store(root))


@pytest.mark.skipif(not KILLS, reason="the long form only")
def test_a_server_that_is_killed_loses_nothing(
    tmp_path: Path,
    user_at: Callable[..., dict[str, str]],
    serve_corral: Callable[..., AbstractContextManager[Any]],
) -> None:
    """Whatever it was doing, the store is consistent, what it had answered holds, and `gc` removes what it left."""
    environment = user_at(tmp_path, CORRAL_ENGINE="fake", HOME=str(tmp_path))
    root, _ = tmp_path / "models", _stocked(tmp_path)
    there: dict[str, bool] = {}
    done: Counter[str] = Counter()
    with FakeRegistry() as registry:
        for number in range(KILLS):
            with serve_corral(environment, settings=("scheduler.runner=thread",)) as server:
                if not number:
                    _fill(registry, server.url)
                client = Client(server.url, registry.host, number)
                client.there = there
                killing = threading.Timer(random.Random(number).random() * 1.5, server.process.kill)
                killing.start()
                with suppress(httpx.HTTPError):
                    while True:
                        client.step()
                client.close()
                killing.join()
                server.process.wait(30)
            assert client.faults == []
            done += client.done
            found = asyncio.run(check_store(root))
            assert "keep:latest" in found
            assert {name: f"{name}:latest" in found for name in there} == there
        asyncio.run(collect_all(root))
        assert asyncio.run(check_store(root)) == found
    print(done)


def _stocked(folder: Path) -> Path:
    """Imports the model ``keep`` into the store of this home, and returns its file."""
    file = folder / "model.gguf"
    file.write_bytes(_weights(9))
    asyncio.run(catalog_at(folder / "models").import_file(file, parse_name("keep")))
    return file


def _fill(registry: FakeRegistry, url: str) -> None:
    """Pushes two models into the registry."""
    with httpx.Client(base_url=url, timeout=120) as http:
        for number, name in enumerate(("one", "two")):
            data = _weights(number)
            http.post(f"/api/blobs/{digest_of(data)}", content=data).raise_for_status()
            model = f"{registry.host}/house/{name}"
            created = {"model": model, "files": {"model.gguf": digest_of(data)}, "stream": False}
            http.post("/api/create", json=created).raise_for_status()
            http.post("/api/push", json={"model": model, "insecure": True, "stream": False}).raise_for_status()
