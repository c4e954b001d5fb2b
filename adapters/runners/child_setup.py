"""The first steps of every child process: it takes its socket, dies with its parent, and sends its logs there."""

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
    """Return the socket of ``python -m MODULE FD PARENT_PID``. From now on the process does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _die_with(int(sys.argv[2]))
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    return sock


def extend_import_path(entries: Iterable[str]) -> None:
    """Make everything importable that the parent can import."""
    for entry in entries:
        if entry not in sys.path:
            sys.path.append(entry)


def send_logs(send: Callable[[Log], None], level: int) -> None:
    """Send log records of this level and above to the parent as frames."""
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
    """On Linux, have the kernel end this process with its parent, even while native code is blocking.

    An extra precaution.
    """
    if sys.platform != "linux":
        return
    import ctypes

    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent_pid:
        os._exit(0)
