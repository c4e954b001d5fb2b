"""Starts a child process, logs and keeps its output, and waits for its end.

Leaves no zombie and no descriptor behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from corral.adapters.system.openmp import wait_settings
from corral.core.errors import CorralError

__all__ = ("ChildOutput", "ChildProcess", "how_it_ended", "start_child")

_log = logging.getLogger("corral.engine")

_LAST_LINES = 12
_LONGEST_LINE = 4096
# What faulthandler writes after a crash: stacks, which would displace the library's own last lines.
_STACK = re.compile(r'File ".*", line \d+ in |(Current )?[Tt]hread 0x|Extension modules: ')
# Messages of ggml, the C and C++ libraries, Rust and Python about why a process ends; a panic's text follows it.
_REASON = re.compile(
    r".*GGML_ASSERT\(|.*: GGML_ABORT|ggml_abort|terminate called |what\(\):|thread '.*' \(?.*panicked at|"
    r"fatal runtime error: |.*Assertion .* failed|(double )?free\(\): |malloc\(\): |corrupted |"
    r"\*\*\* .* \*\*\*: |MemoryError|memory allocation of .* failed|.*error while loading shared libraries"
)
_FOLDERS = re.compile(r"^/\S*/(?=[^/\s]+:\d+: )")
"""Matches paths of source files on the machine where the library was compiled."""
_PANIC = re.compile(r"thread '.*' \(?.*panicked at")
_MOST_REASONS = 4
_REASON_LINES = 40
"""How many other lines may follow a reason; the process survived anything further back."""
_QUIET = {"GGML_NO_BACKTRACE": "1"}
"""A debugger's stacks would displace the reason of an abort from the last lines, and may take minutes."""
_DEATH_S = 2.0  # how long a process may outlive its connection


class ChildOutput:
    """The last lines of a process's output, and those among them that say why it ended."""

    def __init__(self) -> None:
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._reasons: deque[tuple[int, str]] = deque(maxlen=_MOST_REASONS)
        self._count = 0
        self._panicking = False

    @property
    def reasons(self) -> list[str]:
        """Empty if no line says why, or if the process survived it."""
        return [text for line, text in self._reasons if self._count - line <= _REASON_LINES]

    def add(self, line: str) -> None:
        """Add one stripped line. Frames of Python's stacks are left out."""
        if _STACK.match(line) is not None:
            return
        self._count += 1
        self.last_lines.append(line)
        if self._panicking or _REASON.match(line):
            self._reasons.append((self._count, _FOLDERS.sub("", line)))
        self._panicking = _PANIC.match(line) is not None


class ChildProcess:
    """Runs ``python -m MODULE FD PARENT_PID`` with one end of a socket pair. Belongs to one event loop.

    A dedicated thread starts the process and waits for it. It lives as long as the child, because Linux treats the end
    of the thread that started a child as the death of the parent (see `child`).
    """

    def __init__(self, module: str, sock: socket.socket, label: str) -> None:
        """Takes ownership of `sock`, which is closed here once the child has it."""
        self._output = ChildOutput()
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._label = label
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._doomed = False
        self._lock = threading.Lock()
        threading.Thread(target=self._keep, args=(module, sock), name=f"child {label}", daemon=True).start()

    async def started(self) -> None:
        """Wait until the process runs. Raises `OSError` if it cannot be started."""
        await asyncio.shield(self._started)

    def terminate(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.terminate()

    def kill(self) -> None:
        """May be called twice, and also before the process begins or after it has ended."""
        with self._lock:
            self._doomed = True
            if self._process is not None:
                self._process.kill()

    async def destroy(self) -> None:
        """Kill it and wait until it is gone, even if the caller is cancelled meanwhile."""
        self.kill()
        with suppress(OSError):
            await asyncio.shield(self._started)
            await asyncio.shield(self.exited)

    def describe_end(self) -> str:
        """How it ended (``was killed by SIGKILL``, ``exited with code 1``), with the reason from its output or its last
        lines.
        """
        code = self.exited.result() if self.exited.done() else None
        if code is None:
            end = "closed its connection"
        elif code < 0:
            try:
                end = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                end = f"was killed by signal {-code}"
        else:
            end = f"exited with code {code}"
        output = self._output
        if output.reasons:
            return f"{end}: {' | '.join(output.reasons)}"
        return f"{end}; its last lines: {' | '.join(output.last_lines)}" if output.last_lines else end

    # ── The keeper's thread ───────────────────────────────────────────────────────────────────────────────────────

    def _keep(self, module: str, sock: socket.socket) -> None:
        command = [sys.executable, "-P", "-u", "-X", "faulthandler", "-m", module, str(sock.fileno()), str(os.getpid())]
        try:
            with sock:
                process = subprocess.Popen(
                    command,
                    pass_fds=[sock.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=_QUIET | wait_settings(os.environ) | os.environ,
                    start_new_session=True,  # Ctrl-C in a terminal is for the parent, which finishes requests first
                )
        except OSError as error:
            self._tell(self._started.set_exception, error)
            return
        with self._lock:
            self._process = process
            if self._doomed:
                process.kill()
        self._tell(self._started.set_result, None)
        reader = threading.Thread(target=self._read, args=(process,), name=f"output of {self._label}", daemon=True)
        reader.start()
        code = process.wait()
        reader.join(timeout=1.0)  # processes that inherited its output may keep it open longer
        self._tell(self.exited.set_result, code)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            while line := output.readline(_LONGEST_LINE):
                text = line.decode(errors="replace").strip()
                if text:
                    self._output.add(text)
                    _log.debug("%s: %s", self._label, text)

    def _tell(self, tell: Callable[[Any], None], value: Any) -> None:
        with suppress(RuntimeError):  # the event loop was closed
            self._loop.call_soon_threadsafe(tell, value)


async def start_child(module: str, label: str, link: asyncio.BaseProtocol) -> ChildProcess:
    """Start a child that runs `module`, with `link` at our end of its socket.

    Raises `OSError` and leaves nothing behind.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    child = ChildProcess(module, theirs, label)
    try:
        await child.started()
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
    except BaseException:
        ours.close()
        await child.destroy()
        raise
    return child


async def how_it_ended(child: ChildProcess, label: str, kind: type[CorralError]) -> CorralError:
    """The error, of the given class, for a child whose connection ended without a message."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(child.exited), _DEATH_S)
    remedy = None
    if child.exited.done() and child.exited.result() == -signal.SIGKILL:
        remedy = "SIGKILL often means that the system ran out of memory"
    return kind(f"the process of {label} {child.describe_end()}", remedy)
