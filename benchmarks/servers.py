"""Servers under test, running already or started and stopped here, and the processor time of their processes."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from benchmarks.client import request
from benchmarks.dialects import Completion, Dialect, DialectName, detect, first_model, read_completion

__all__ = ("Target", "cpu_seconds", "forget_peaks", "memory_peaks", "process_tree", "running")

_READY_S = 120.0
_STOP_S = 20.0
_READY_PATHS = ("/api/version", "/health", "/v1/models")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server to measure. With `start`, a command line, it runs only while it is measured."""

    label: str
    url: str
    dialect: DialectName | None = None
    model: str | None = None
    start: str | None = None


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A server that answers. `process_id` is known if it was started here."""

    dialect: Dialect
    process_id: int | None = None


@asynccontextmanager
async def running(target: Target, *, warm: bool = True) -> AsyncIterator[Running]:
    """The server, started if necessary. With `warm`, its model has been loaded by a small first request.

    Raises `RuntimeError` with the end of its output if it does not come up, and if something answers at its address
    already.
    """
    process: Process | None = None
    with tempfile.TemporaryFile() as output:
        if target.start is not None:
            if await _answers(target.url):
                raise RuntimeError(f"something answers at {target.url} already: it would be measured instead")
            command = shlex.split(target.start)
            process = await asyncio.create_subprocess_exec(
                *command, stdout=output, stderr=output, start_new_session=True
            )
        try:
            if not await _ready(target.url, process):
                output.seek(0)
                tail = output.read()[-2000:].decode(errors="replace")
                raise RuntimeError(f"{target.label} does not answer at {target.url}:\n{tail}")
            name = target.dialect or await detect(target.url)
            model = target.model or await first_model(name, target.url)
            dialect = Dialect(name=name, url=target.url, model=model)
            if warm:
                first = Completion(prompt="Warm up.", max_tokens=4)
                read_completion(name, await request(dialect.path(), dialect.body(first)))
            yield Running(dialect=dialect, process_id=process.pid if process is not None else None)
        finally:
            if process is not None:
                await _stop(process)


async def _answers(url: str) -> bool:
    for path in _READY_PATHS:
        try:
            if (await request(url.rstrip("/") + path, method="GET", timeout_s=5)).status == 200:
                return True
        except (OSError, TimeoutError):
            return False
    return False


async def _ready(url: str, process: Process | None) -> bool:
    deadline = asyncio.get_running_loop().time() + (_READY_S if process is not None else 0)
    while not await _answers(url):
        if process is None or process.returncode is not None or asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def process_tree(root: int) -> list[int]:
    """A process and its descendants, the root first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process_id in found:
        found += children.get(process_id, [])
    return found


def cpu_seconds(process_id: int) -> float:
    """User and system time of a process so far, in steps of 0.01 s. Raises `OSError` if there is no such process."""
    fields = _stat(process_id)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_peaks(root: int | None) -> None:
    """Let the peaks of the processes' memory begin anew, where the system allows it."""
    for process_id in process_tree(root) if root is not None else ():
        with suppress(OSError):
            Path(f"/proc/{process_id}/clear_refs").write_text("5")


def memory_peaks(root: int | None) -> list[int]:
    """The largest resident memory that each process of the tree has had, in bytes. Empty if there is no process."""
    peaks = []
    for process_id in process_tree(root) if root is not None else ():
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
            peaks.append(next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")))
    return peaks


def _stat(process_id: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may contain spaces and brackets."""
    text = Path(f"/proc/{process_id}/stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()
