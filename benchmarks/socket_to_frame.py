"""What a chat with a loaded model costs the server before the model has it: processor time from socket to frame."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from corral.core.models.names import parse_name
from corral.plugins.assembly import assemble, read_layers
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

__all__ = ("measure_socket_to_frame",)

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MODEL: Mapping[str, Any] = {
    **SMALL_MODEL,
    "general.architecture": "benchmark",
    "tokenizer.chat_template": _CHATML,
}
_CHAT = {
    "model": "warm",
    "messages": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Because air scatters blue light."},
        {"role": "user", "content": "And at sunset?"},
    ],
    "options": {"num_predict": 1},
}
_WARM_UP = 50
_READY_S = 60.0


async def _make_store(folder: Path) -> None:
    """A store with one model, `warm`, which the fake engine runs."""
    weights = folder / "warm.gguf"
    weights.write_bytes(gguf_bytes(_MODEL))
    assembly = await assemble(read_layers(flags={"stores.filesystem.root": str(folder / "models")}))
    try:
        catalog = assembly.runtime.catalog
        record = await catalog.import_file(weights, parse_name("warm"))
        await catalog.publish(record.name, msgspec.structs.replace(record, format="fake"))
    finally:
        await assembly.aclose()


def measure_socket_to_frame(chats: int) -> float:
    """Microseconds of processor time of a short chat with a loaded model, the median of `chats`, one after the other.

    The server is this environment's Corral, with a store of its own. Raises `RuntimeError` if it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        asyncio.run(_make_store(folder))
        report, log = folder / "report", folder / "log"
        settings = ["--set", f"stores.filesystem.root={folder / 'models'}"]
        command = [sys.executable, "-m", "benchmarks.stopwatch", str(report), *settings, "serve", "--port", str(port)]
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait_for(port, server, log)
            _chat(port, _WARM_UP + chats)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
        spent_ns = [int(line) for line in report.read_text().splitlines()]
    return median(spent_ns[_WARM_UP:]) / 1000


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _READY_S
    while server.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the server does not answer:\n{log.read_text(errors='replace')[-2000:]}")


def _chat(port: int, count: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_READY_S)
    body = json.dumps(_CHAT)
    for _ in range(count):
        connection.request("POST", "/api/chat", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        read = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the chat was refused: {read[:500]!r}")
    connection.close()
