"""Processor time per token of a server and its children, compared with a bare ASGI application."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from benchmarks.client import Exchange, send
from benchmarks.dialects import Completion, Dialect, read_completion
from benchmarks.prompts import words
from benchmarks.servers import Running, Target, cpu_seconds, process_tree, running

__all__ = ("CpuReport", "measure_cpu")


class CpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of processor time per generated token. `bare_ms` is the bare application's, for the same lines."""

    tokens: int
    lines: int
    parent_ms: float
    children_ms: float
    bare_ms: float


async def measure_cpu(target: Target, *, streams: int, tokens: int, process_id: int | None = None) -> CpuReport:
    """Streams at full speed, while a bare server plays back what the same streams sent before, at the same times.

    Both are measured at the same time, because processor time per line grows with the load of the machine.
    Raises `RuntimeError`.
    """
    async with running(target) as server:
        root = server.process_id or process_id
        if root is None:
            raise RuntimeError("whose processor time? Give --start, or the server's process id with --pid")
        recorded = await _stream_all(server.dialect, streams, tokens)
        async with _bare_server([_recorded(exchange) for exchange in recorded]) as bare:
            assert bare.process_id is not None
            before, bare_before = _spent(root), _spent(bare.process_id)
            replays = [await send(f"{bare.dialect.url}/{number}") for number in range(streams)]
            exchanges = await _stream_all(server.dialect, streams, tokens)
            after = _spent(root)
            for replay in replays:
                await replay.finish()
            bare_s = sum(_spent(bare.process_id).values()) - sum(bare_before.values())
        generated = [read_completion(server.dialect.name, await exchange.finish()) for exchange in exchanges]
    count = sum(one.generated_tokens for one in generated)
    children_s = sum(after.values()) - after[root] - sum(before.get(one, 0.0) for one in after if one != root)
    return CpuReport(
        tokens=count,
        lines=sum(len(one.text_at_ns) for one in generated),
        parent_ms=1000 * (after[root] - before[root]) / count,
        children_ms=1000 * children_s / count,
        bare_ms=1000 * bare_s / count,
    )


async def _stream_all(dialect: Dialect, streams: int, tokens: int) -> list[Exchange]:
    completions = [Completion(prompt=words(20, 400 + number), max_tokens=tokens) for number in range(streams)]
    exchanges = await asyncio.gather(*(send(dialect.path(), dialect.body(one)) for one in completions))
    for exchange in exchanges:
        await exchange.finish()
    return list(exchanges)


def _spent(root: int) -> dict[int, float]:
    spent = {}
    for process_id in process_tree(root):
        try:
            spent[process_id] = cpu_seconds(process_id)
        except OSError:
            continue
    return spent


def _recorded(exchange: Exchange) -> list[tuple[float, bytes]]:
    """What a stream sent after the head, as (seconds since its start, bytes)."""
    response = [((at_ns - exchange.started_ns) / 1e9, data) for at_ns, data in exchange.arrivals]
    first_at, first = response[0]
    return [(first_at, first.partition(b"\r\n\r\n")[2]), *response[1:]]


@asynccontextmanager
async def _bare_server(recordings: Sequence[list[tuple[float, bytes]]]) -> AsyncIterator[Running]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "recording.msgpack"
        recording.write_bytes(msgspec.msgpack.encode(recordings))
        start = f"{sys.executable} -m benchmarks.bare_app {recording} {port}"
        target = Target(
            label="bare application", url=f"http://127.0.0.1:{port}", dialect="openai", model="-", start=start
        )
        async with running(target, warm=False) as server:
            yield server
