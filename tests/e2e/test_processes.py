"""Killed and stopped processes, clients that go away, and memory that is freed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.orphans import runs

pytestmark = [pytest.mark.native, pytest.mark.skipif(os.name != "posix", reason="needs signals")]

Gone = Callable[[int], bool]
Within = Callable[[float, Callable[[], bool]], bool]

ENDLESS = {"ignore_eos": True, "num_predict": 100_000}
LONG_PROMPT = "The ocean is wide and deep, and ships have crossed it for thousands of years. " * 200


def processor_s(process_id: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rests(process_id: int) -> bool:
    """Whether it computes (nearly) nothing for half a second."""
    if sys.platform != "linux":
        return True
    before = processor_s(process_id)
    time.sleep(0.5)
    return processor_s(process_id) - before < 0.1


def test_the_model_s_process_is_killed(server: Any, gone: Gone) -> None:
    """In the middle of an answer: its reader gets the reason, no zombie remains, and the next request is answered."""
    with server.streaming() as lines:
        assert next(lines)["response"]
        child = server.child()
        os.kill(child, signal.SIGKILL)
        *_, last = lines
    assert "was killed by SIGKILL" in last["error"]
    assert gone(child)
    assert server.generate().json()["response"].startswith(" Paris")


def test_the_server_is_killed(start_server: Callable[..., Any], within: Within) -> None:
    """The model's process does not outlive it."""
    with start_server() as server:
        assert server.generate().status_code == 200
        child = server.child()
        server.process.kill()
        assert within(30, lambda: not runs(child))


def test_the_model_s_process_is_stopped(start_server: Callable[..., Any], gone: Gone) -> None:
    """A process that shows no sign of life is killed, its reader gets the reason, and the next request is answered."""
    with start_server("runners.process.heartbeat_timeout_s=2.5") as server:
        with server.streaming() as lines:
            assert next(lines)["response"]
            child = server.child()
            os.kill(child, signal.SIGSTOP)
            *_, last = lines
        assert "did not respond for 2.5 s" in last["error"]
        assert gone(child)
        assert server.generate().json()["response"].startswith(" Paris")


def test_a_client_goes_away_while_its_prompt_is_read(server: Any, within: Within) -> None:
    """The prompt is abandoned within a step: no request holds the model, and it computes nothing any more."""
    server.generate()
    child = server.child()
    body = {
        "model": "smollm2-135m-instruct:q4_1",
        "prompt": LONG_PROMPT,
        "raw": True,
        "stream": False,
        "options": ENDLESS,
    }
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + "/api/generate", json=body, timeout=httpx.Timeout(10, read=0.4))
    assert within(30, lambda: server.active() == 0)
    assert within(30, lambda: rests(child))
    assert server.child() == child


def test_a_client_goes_away_in_the_middle_of_an_answer(server: Any, within: Within) -> None:
    """The same holds while text is being generated; the next request is answered by the same process."""
    with server.streaming() as lines:
        assert next(lines)["response"]
        child = server.child()
        assert server.active() == 1
    assert within(30, lambda: server.active() == 0)
    assert within(30, lambda: rests(child))
    assert server.generate().json()["response"].startswith(" Paris")
    assert server.child() == child


def test_unloading_gives_the_memory_back(server: Any, gone: Gone) -> None:
    """A request with keep_alive 0 ends the model's process."""
    assert server.generate().status_code == 200
    child = server.child()
    assert server.post("/api/generate", {"model": "smollm2-135m-instruct:q4_1", "keep_alive": 0}).json()["done"]
    assert gone(child)
    assert server.running() == []


def test_interrupting_the_server_ends_everything(start_server: Callable[..., Any], gone: Gone) -> None:
    """After Ctrl-C the running request may finish, the model's process ends, and the status is 0."""
    with start_server("server.shutdown_grace=1") as server:
        assert server.generate().status_code == 200
        child = server.child()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert gone(child)


def test_nothing_phones_home(server: Any, connections: Path) -> None:
    """None of the processes of these tests connected to another machine."""
    chat = {"model": "smollm2-135m-instruct:q4_1", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    assert server.post("/api/chat", {**chat, "options": {"num_predict": 4}}).json()["message"]["content"]
    noted = connections.read_text().splitlines()
    started = {line.split()[1] for line in noted if line.startswith("started")}
    assert {str(server.process.pid), str(server.child())} <= started
    local = ("'127.0.0.1'", "('127.0.0.1'", "('::1'", "'localhost'", "'/", "None")
    assert [line for line in noted if not line.startswith("started") and not line.split()[1].startswith(local)] == []
