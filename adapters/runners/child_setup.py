"""What every child process does before its own work: takes its socket, dies with its parent, sends its logs there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable

from corral.adapters.runners.frames import Log

__all__ = ("extend_import_path", "inherited_socket", "send_logs")

_PR_SET_PDEATHSIG = 1


def inherited_socket() -> socket.socket:
    """The socket of ``python -m MODULE FD PARENT_PID``. From here on the process does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with(int(sys.argv[2]))
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    return sock


def extend_import_path(entries: Iterable[str]) -> None:
    """Makes importable here what is importable in the parent."""
    for entry in entries:
        if entry not in sys.path:
            sys.path.append(entry)


def send_logs(send: Callable[[Log], None], level: int) -> None:
    """Log records of that level and above go to the parent as frames."""
    logging.basicConfig(level=level, handlers=[_FrameHandler(send)])


class _FrameHandler(logging.Handler):
    def __init__(self, send: Callable[[Log], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(Log(record.levelno, self.format(record)))
        except Exception:
            self.handleError(record)


def _die_with(parent_pid: int) -> None:
    """On Linux the kernel ends us with the parent, even while native code holds everything up. A supplement only."""
    if sys.platform != "linux":
        return
    import ctypes

    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent_pid:
        os._exit(0)
