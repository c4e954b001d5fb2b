"""Interrupts a computation whose threads wait for processors that others have taken.

ggml's threads wait for each other at every operation, so a step that begins with all of them beside another busy
process takes many times as long as with one thread, and what was measured before says nothing about it. So processor
time is looked at while it is computed. What it had computed is lost: a tenth of a second instead of seconds.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp as C

from corral.adapters.engine_kit.step_timing import Stopwatch
from corral.adapters.engines.llama_cpp.native_log import expect_failure

if sys.platform != "win32":
    import resource

__all__ = ("INTERRUPTED", "Interrupter")

INTERRUPTED = 2
"""What `llama_decode` returns then. What it had computed is no longer in memory."""
_LOOK_S = 0.05
"""Processors must be missing for two looks in a row: a whole machine may stand still for a moment, and inputs are
prepared by one thread."""


class Interrupter:
    """A flag that contexts look at after each operation, and a thread that sets it. One thread computes in them.

    Close it after the contexts.
    """

    def __init__(self) -> None:
        self._flag = (ctypes.c_ubyte * 2)()
        self._lock = threading.Lock()
        self._watched: _Watched | None = None
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def install(self, context: Any) -> None:
        """Let this `llama_context` look at the flag. Only what it computes on the CPU can be interrupted."""
        if _string_length is not None:
            C.llama_set_abort_callback(context, _string_length, ctypes.addressof(self._flag))

    @contextmanager
    def watch(self, threads: int, tolerated: float) -> Iterator[None]:
        """What is computed within, with so many threads, is interrupted if they lack more processors than that."""
        if _string_length is None:
            yield
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="interrupter", daemon=True)
            self._thread.start()
        with self._lock:
            self._watched = _Watched(threads, tolerated)
        if not self._wanted.is_set():
            self._wanted.set()
        expect_failure(self._flag)
        try:
            yield
        finally:
            with self._lock:
                self._watched = None
                self._flag[0] = 0
            expect_failure(None)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._closed:
                return
            watched = self._watched
            if watched is None:
                self._wanted.clear()
                if self._watched is not None or self._closed:  # since it was looked at
                    self._wanted.set()
                continue
            time.sleep(_LOOK_S)
            with self._lock:
                if self._watched is watched and watched.lacks_processors():
                    self._flag[0] = 1

    def close(self) -> None:
        self._closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


class _Watched:
    """A computation that begins now."""

    def __init__(self, threads: int, tolerated: float) -> None:
        self._threads = threads
        self._tolerated = tolerated
        self._faults = _faults()
        self._watch = Stopwatch()
        self._lacked = False

    def lacks_processors(self) -> bool:
        """Whether it does since this was last asked, and did before."""
        took, self._watch = self._watch.read(), Stopwatch()
        if took.cpu_s is None:
            return False
        lacked, self._lacked = self._lacked, self._threads - took.cpu_s / took.wall_s > self._tolerated
        # If it has waited for the disk, processor time says nothing.
        return lacked and self._lacked and _faults() == self._faults


def _faults() -> int:
    """How often this process has waited for a page from a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _length_function() -> Any:
    """`strlen`, as a function that tells whether to stop: the length of the flag, without Python, which would need the
    interpreter's lock after each operation.
    """
    if sys.platform == "win32":
        return None
    return ctypes.cast(ctypes.CDLL(None).strlen, C.ggml_abort_callback)


_string_length = _length_function()
