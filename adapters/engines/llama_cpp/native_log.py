"""llama.cpp's log, as Python's, and what it says about a failure."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import deque
from typing import Any

import llama_cpp as C

__all__ = ("collect_image_log", "collect_log", "expect_failure", "failure_reason", "forget_log")

_log = logging.getLogger("corral.engines.llama_cpp")
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_recent: deque[str] = deque(maxlen=20)
_last_level = logging.DEBUG
_expected = threading.local()


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: Any) -> None:
    global _last_level
    if level != 5:  # 5 continues the previous line
        _last_level = _LEVELS.get(level, logging.DEBUG)
    line = text.decode("utf-8", "replace").rstrip()
    if line and line.strip("."):
        stopped = getattr(_expected, "flag", None)
        if stopped is not None and stopped[0]:
            return
        if _last_level >= logging.WARNING:
            _recent.append(line)
        # What llama.cpp calls information and warnings is for its developers; a failure is reported by its error.
        _log.log(logging.DEBUG if _last_level <= logging.WARNING else _last_level, "%s", line)


def collect_log() -> None:
    """Send llama.cpp's log to `logging`, and keep its last warnings for error messages."""
    C.llama_log_set(_on_log, ctypes.c_void_p(0))


def collect_image_log() -> None:
    """The same for the log of the library for images, which is loaded by this."""
    from llama_cpp import mtmd_cpp

    mtmd_cpp.mtmd_helper_log_set(_on_log, ctypes.c_void_p(0))


def expect_failure(flag: ctypes.Array[ctypes.c_ubyte] | None) -> None:
    """From now on, this thread logs nothing while `flag[0]` is set: it was told to stop, which is no failure."""
    _expected.flag = flag


def forget_log() -> None:
    """Forget earlier messages. Call before something that may fail."""
    _recent.clear()


def failure_reason() -> str:
    """The last message of llama.cpp that explains a failure."""
    telling = [
        line for line in _recent if "error" in line.lower() or "unknown" in line.lower() or "failed" in line.lower()
    ]
    lines = telling or list(_recent)
    return lines[0].split(": ", 1)[-1] if lines else "no reason given"
