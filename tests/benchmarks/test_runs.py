"""Whole benchmarks, against a small server that talks like Ollama."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shlex
import socket
import sys
from typing import Any

import pytest

from benchmarks.busy import busy_processes
from benchmarks.cases import CASES
from benchmarks.client import Exchange, send
from benchmarks.cpu import measure_cpu
from benchmarks.dialects import Dialect, DialectName, unload
from benchmarks.exact import CONDITIONS, MODES, SETTLED, check
from benchmarks.servers import Target
from benchmarks.socket_to_frame import measure_socket_to_frame
from benchmarks.speed import measure

# Streams `num_predict` words. With "moody" its words are other ones for every request, also after a restart.
_SERVER = """
import http.server, itertools, json, sys, time
count = itertools.count(time.time_ns())
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"models": [{"name": "tiny"}]}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def line(self, value):
        data = json.dumps(value).encode() + b"\\n"
        self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(data), data)); self.wfile.flush()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
        number = next(count) if sys.argv[2] == "moody" else 0
        tokens = asked.get("options", {}).get("num_predict", 0)
        try:
            for position in range(tokens):
                self.line({"response": f" {number}{len(asked['prompt'])}", "done": False}); time.sleep(0.001)
            self.line({"response": "", "done": True, "eval_count": tokens, "prompt_eval_count": 3})
            self.wfile.write(b"0\\r\\n\\r\\n")
        except OSError:
            pass
        self.close_connection = True
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _target(label: str, mood: str = "steady") -> Target:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = shlex.join([sys.executable, "-c", _SERVER, str(port), mood])
    return Target(label=label, url=f"http://127.0.0.1:{port}", start=start)


def test_two_servers_are_measured_in_turn() -> None:
    """Every case gives figures for each server and round; the servers take turns in going first."""
    steps: list[str] = []
    cases = ["one", "shared", "distinct", "late"]
    measured = asyncio.run(
        measure([_target("A"), _target("B")], cases, streams=2, tokens=16, rounds=2, on_step=steps.append)
    )
    assert set(measured) == set(cases)
    assert all(len(rounds) == 2 for found in measured.values() for rounds in (found["A"], found["B"]))
    assert measured["shared"]["A"][0].tokens == 32
    assert measured["late"]["B"][1].late_ttft_s is not None
    assert [step.split(": ")[1][0] for step in steps[:: len(cases)]] == ["A", "B", "B", "A"]


def test_every_case_runs() -> None:
    """Conversations ask again and again, a restart stops the server between two requests, and memory is that of the
    server's process.
    """
    measured = asyncio.run(measure([_target("A")], list(CASES), streams=2, tokens=2, rounds=1, pause_s=0))
    found = {case: figures for case, rounds in measured.items() for figures in rounds["A"]}
    assert set(found) == set(CASES)
    assert found["conversation"].tokens == 6 * 4
    assert found["chats"].tokens == 10 * 3 * 2
    assert found["growth"].tokens == 256 + 2
    assert found["restart"].late_ttft_s is not None
    assert found["one"].memory_bytes == found["one"].largest_bytes


@pytest.mark.parametrize(("tokens", "others"), [(1, 1), (32, 32), (512, 256)])
def test_a_model_is_loaded_anew_before_it_grows(monkeypatch: pytest.MonkeyPatch, tokens: int, others: int) -> None:
    """It is unloaded in every round, and the first stream runs when the others come, however long answers shall be: its
    gaps are measured."""
    asked: list[str] = []
    first: list[Exchange] = []

    async def noted(url: str, body: Any) -> Exchange:
        if len(first) == 1:
            assert first[0].arrivals
            assert not first[0].closed.done()
        asked.append(f"{len(body['prompt'].split())} words, {body['options']['num_predict']} tokens")
        first.append(await send(url, body))
        return first[-1]

    async def unloaded(dialect: Dialect) -> None:
        first.clear()
        asked.append("unload")
        await unload(dialect)

    monkeypatch.setattr("benchmarks.growth.send", noted)
    monkeypatch.setattr("benchmarks.growth.unload", unloaded)
    measured = asyncio.run(measure([_target("A")], ["growth"], streams=3, tokens=tokens, rounds=2))
    assert all(math.isfinite(found.gap_worst_s) for found in measured["growth"]["A"])
    long, short = asked[1], f"4 words, {others} tokens"
    assert asked == ["unload", long, short, short] * 2
    assert long.endswith(" words, 256 tokens")


def test_an_api_that_cannot_unload_is_told_apart() -> None:
    """Ollama's can; for the others, a case of a new model takes the model as it is."""
    names: tuple[DialectName, ...] = ("ollama", "llama-server", "openai")
    assert [Dialect(name=name, url="http://127.0.0.1:9").unloads for name in names] == [True, False, False]


def test_busy_processes_end_with_their_case() -> None:
    """All of them run inside, and none afterwards, also if the case fails."""

    async def run() -> list[int | None]:
        processes = []
        with contextlib.suppress(RuntimeError):
            async with busy_processes(3) as processes:
                assert [one.returncode for one in processes] == [None] * 3
                raise RuntimeError("the case failed")
        return [one.returncode for one in processes]

    codes = asyncio.run(run())
    assert len(codes) == 3
    assert None not in codes


@pytest.mark.parametrize(("mood", "equal"), [("steady", 3), ("moody", 0)])
def test_texts_are_compared_with_those_of_a_fresh_server(mood: str, equal: int) -> None:
    """A server that always gives the same answer passes; one whose answers vary with its state fails."""
    conditions = [
        *("traffic of 8", "cached prefix", "late join", "neighbour cancelled", "neighbour shifted"),
        *("host memory", "loaded again", "growing"),
    ]
    assert set(conditions) < set(CONDITIONS)
    outcomes = asyncio.run(check(_target("A", mood), conditions, prompts=3, tokens=5))
    assert [(one.equal, one.of) for one in outcomes] == [(equal, 3)] * len(conditions) * len(MODES)


def test_second_turns_are_compared_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition of settled answers asks two turns, and compares the second ones."""
    monkeypatch.setattr("benchmarks.exact._SETTLING_S", 0.0)
    outcomes = asyncio.run(check(_target("A"), [SETTLED], prompts=2, tokens=3))
    assert [(one.condition, one.equal, one.of) for one in outcomes] == [(SETTLED, 2, 2)] * len(MODES)


def test_processor_time_is_compared_with_a_bare_application() -> None:
    """Tokens and lines are counted, and the recording can be played back by the bare application."""
    report = asyncio.run(measure_cpu(_target("A"), streams=2, tokens=50))
    assert (report.tokens, report.lines) == (100, 100)
    assert all(math.isfinite(value) for value in (report.parent_ms, report.children_ms, report.bare_ms))
    assert report.children_ms == 0


def test_a_warm_chat_is_timed_from_socket_to_frame() -> None:
    """A server of this Corral is started, and each of its chats is timed; the figure is in microseconds."""
    assert 50 < measure_socket_to_frame(3) < 1_000_000


def test_a_server_that_is_not_there_is_a_clear_error() -> None:
    """Without a start command the server must be up already."""

    async def main() -> None:
        await measure_cpu(Target(label="A", url="http://127.0.0.1:9", dialect="ollama"), streams=1, tokens=1)

    with pytest.raises(RuntimeError, match="does not answer"):
        asyncio.run(main())
