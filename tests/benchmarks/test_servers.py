"""Servers under test: started, ready, stopped; their processor time; the bare application."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import sys
import time

import pytest

from benchmarks.prompts import QUESTIONS, chat, words
from benchmarks.servers import Target, cpu_seconds, process_tree, running


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _target(port: int, program: str = _SERVER) -> Target:
    start = shlex.join([sys.executable, "-c", program, str(port)])
    return Target(label="tiny", url=f"http://127.0.0.1:{port}", dialect="openai", model="-", start=start)


def test_a_server_runs_while_it_is_measured_and_no_longer() -> None:
    """It answers inside the `with` block, and its process is gone afterwards."""

    async def main() -> int:
        async with running(_target(_free_port()), warm=False) as server:
            assert server.process_id is not None
            assert server.process_id in process_tree(os.getpid())
            return server.process_id

    process_id = asyncio.run(main())
    assert process_id not in process_tree(os.getpid())


def test_a_server_that_dies_shows_what_it_said() -> None:
    """The end of its output is in the message."""

    async def main() -> None:
        async with running(_target(_free_port(), "import sys; sys.exit('out of luck')"), warm=False):
            pass

    with pytest.raises(RuntimeError, match="out of luck"):
        asyncio.run(main())


def test_an_address_that_is_taken_is_refused() -> None:
    """A port in use is an error, because otherwise the server that is already there would be measured."""

    async def main() -> None:
        port = _free_port()
        async with running(_target(port), warm=False), running(_target(port), warm=False):
            pass

    with pytest.raises(RuntimeError, match=r"answers at .* already"):
        asyncio.run(main())


def test_processor_time_grows_with_work() -> None:
    """User and system time of a process are found even if its name contains brackets."""
    before = cpu_seconds(os.getpid())
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    assert cpu_seconds(os.getpid()) >= before + 0.05


def test_prompts_have_their_length_and_repeat() -> None:
    """The same seed gives the same words, another seed other words, and 32 questions are all different."""
    assert len(words(100, 1).split()) == 100
    assert words(100, 1) == words(100, 1)
    assert words(100, 1)[:20] != words(100, 2)[:20]
    assert len(set(QUESTIONS)) == 32
    assert chat("S", "U").index("S") < chat("S", "U").index("U")
