"""Compares how cheaply uvicorn and granian stream: lines per second and CPU time per line of a bare application.

    python benchmarks/asgi_servers.py [--lines 20000] [--clients 1 8] [--servers uvicorn granian]

Each server runs in a separate process. It sends lines as fast as it can, and then at a fixed rate, as a model would.
CPU time is that of the server's process and its children, so it includes the threads of a server written in Rust.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LINE = b'{"model":"smollm2","created_at":"2026-11-22T10:00:00.123456789Z","response":" word","done":false}\n'

COMMANDS = {
    "uvicorn": "uvicorn --http httptools --loop uvloop --no-access-log --log-level error",
    "granian": "granian --interface asgi --workers 1 --loop uvloop --no-access-log --no-log",
}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The bare application: ``/<lines>/<lines per second, 0 for as fast as it goes>``."""
    if scope["type"] != "http":
        return
    lines, rate = (int(part) for part in scope["path"].strip("/").split("/"))
    headers = [(b"content-type", b"application/x-ndjson")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    started = time.perf_counter()
    for number in range(lines):
        if rate:
            await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        await send({"type": "http.response.body", "body": LINE, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def fetch(port: int, path: str) -> int:
    """The number of bytes of an answer, read by the cheapest possible client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    size = 0
    while chunk := await reader.read(1 << 20):
        size += len(chunk)
    writer.close()
    return size


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants (Linux)."""
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    own = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    return own + sum(cpu_seconds(int(child)) for child in children)


async def measure(port: int, pid: int, clients: int, lines: int, rate: int) -> dict[str, float]:
    before, started = cpu_seconds(pid), time.perf_counter()
    await asyncio.gather(*(fetch(port, f"/{lines}/{rate}") for _ in range(clients)))
    wall = time.perf_counter() - started
    total = clients * lines
    return {
        "lines_per_s": round(total / wall),
        "cpu_us_per_line": round((cpu_seconds(pid) - before) / total * 1e6, 1),
    }


def run(name: str, clients: list[int], lines: int) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", *COMMANDS[name].split(), "--port", str(port), "asgi_servers:app"]
    process = subprocess.Popen(command, cwd=Path(__file__).parent)
    try:
        for _ in range(100):
            try:
                asyncio.run(fetch(port, "/10/0"))
                break
            except OSError:
                time.sleep(0.1)
        rows: list[dict[str, Any]] = []
        for count in clients:
            for rate in (0, 200):
                per_client = lines // count if rate == 0 else 10 * rate
                figures = asyncio.run(measure(port, process.pid, count, per_client, rate))
                rows.append({"server": name, "clients": count, "rate_per_s": rate or "full", **figures})
        return rows
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--servers", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [row for name in arguments.servers for row in run(name, arguments.clients, arguments.lines)]
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
