"""A real `corral serve` with real weights, and a guard that records every connection of its processes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

UNUSED = f"sha256-{'0' * 64}"
SMOLLM2 = "smollm2-135m-instruct:q4_1"

# Python runs a module of this name whenever it starts, in the server and in its children alike.
GUARD = """
import os, sys

_log = open(os.environ["CONNECTIONS_LOG"], "a", buffering=1)
_log.write(f"started {os.getpid()}\\n")

def _note(event, details):
    if event == "socket.connect":
        _log.write(f"connect {details[1]!r}\\n")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        _log.write(f"{event} {details[0 if event != 'socket.sendto' else 1]!r}\\n")

sys.addaudithook(_note)
"""

Corral = Callable[..., "subprocess.CompletedProcess[str]"]


class Server:
    """A server at `url`; `log` has the lines of its log so far."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: list[str]) -> None:
        self.process = process
        self.url = url
        self.log = log

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def post(self, path: str, body: Any, timeout_s: float = 60) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=timeout_s)

    def generate(self, model: str = SMOLLM2, prompt: str = "The capital of France is", **body: Any) -> httpx.Response:
        """One short answer, not streamed."""
        options = {"temperature": 0, "num_predict": 8} | body.pop("options", {})
        request = {"model": model, "prompt": prompt, "raw": True, "stream": False, "options": options}
        return self.post("/api/generate", request | body)

    def running(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = httpx.get(self.url + "/api/ps", timeout=60).json()["models"]
        return models

    def active(self) -> int:
        """Requests that hold a model."""
        return sum(model["corral"]["active"] for model in self.running())

    def child(self) -> int:
        """The process of the one model that is loaded."""
        [model] = self.running()
        process_id: int = model["corral"]["process_id"]
        return process_id

    @contextmanager
    def streaming(self, prompt: str = "Once upon a time", **options: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """An endless answer, line by line; leaving the block disconnects."""
        options = {"ignore_eos": True, "num_predict": 100_000, "temperature": 0} | options
        body = {"model": SMOLLM2, "prompt": prompt, "raw": True, "options": options}
        with httpx.stream("POST", self.url + "/api/generate", json=body, timeout=60) as response:
            yield (json.loads(line) for line in response.iter_lines())


def exists(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether the condition became true in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="session")
def gone() -> Callable[[int], bool]:
    """Whether a process ends, and does so soon: the limit is for a test that fails."""
    return lambda process_id: wait_until(lambda: not exists(process_id), 30)


@pytest.fixture(scope="session")
def within() -> Callable[[float, Callable[[], bool]], bool]:
    """Whether a condition becomes true within a number of seconds."""
    return lambda limit_s, condition: wait_until(condition, limit_s)


@pytest.fixture(scope="session")
def connections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guard's record: a line for each process that started and for each connection."""
    return tmp_path_factory.mktemp("guard") / "connections.txt"


@pytest.fixture(scope="session")
def environment(
    tmp_path_factory: pytest.TempPathFactory,
    smollm2: Path,
    connections: Path,
    user_at: Callable[..., dict[str, str]],
    run_corral: Corral,
) -> dict[str, str]:
    """A user's home with SmolLM2 in its store, imported from its file, and an old blob that no model names."""
    home = tmp_path_factory.mktemp("home")
    guard = connections.parent
    (guard / "sitecustomize.py").write_text(GUARD)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment: dict[str, str] = user_at(
        home,
        PIP_CACHE_DIR=os.environ.get("PIP_CACHE_DIR") or str(cache / "pip"),
        OLLAMA_NUM_PARALLEL="4",
        CONNECTIONS_LOG=str(connections),
        PYTHONPATH=str(guard),
    )
    done = run_corral(environment, "import", str(smollm2), "--name", SMOLLM2)
    assert done.returncode == 0, done.stderr
    unused = Path(environment["CORRAL_MODELS"]) / "blobs" / UNUSED
    unused.write_bytes(b"")
    os.utime(unused, (1, 1))
    return environment


@pytest.fixture(scope="session")
def corral(environment: dict[str, str], run_corral: Corral) -> Corral:
    """Runs the command in a separate process; keyword arguments are environment variables."""
    return lambda *arguments, **variables: run_corral(environment | variables, *arguments)


@pytest.fixture(scope="session")
def start_server(
    environment: dict[str, str], serve_corral: Callable[..., Any]
) -> Callable[..., AbstractContextManager[Server]]:
    """Starts another server, with settings (``PATH=VALUE``), for a ``with`` block."""

    @contextmanager
    def start(*assignments: str) -> Iterator[Server]:
        with serve_corral(environment, settings=assignments) as served:
            yield Server(*served)

    return start


@pytest.fixture(scope="session")
def server(start_server: Callable[..., AbstractContextManager[Server]]) -> Iterator[Server]:
    """One server for all tests that leave it running, which they check with a request."""
    with start_server() as server:
        yield server
    assert server.process.returncode == 0, server.log[-5:]
