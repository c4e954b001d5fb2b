"""Creates and frees contexts in threads, while steps go on: both take long if a context is large."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence

from corral.adapters.engines.llama_cpp.native import LlamaContext
from corral.adapters.engines.llama_cpp.native_context import ContextSize, NativeContext
from corral.core.freed_memory import return_free_memory

__all__ = ("ContextCreation", "close_soon")

_log = logging.getLogger(__name__)

_BACKGROUND_NICE = 10


class ContextCreation:
    """Creates a context in a thread: of the first of these sizes for which there is memory."""

    def __init__(
        self, context: LlamaContext, targets: Sequence[ContextSize], allowed: Callable[[ContextSize], bool]
    ) -> None:
        self._context = context
        self._allowed = allowed
        self.targets = targets
        self.native: NativeContext | None = None
        self.size: ContextSize | None = None
        self._thread = threading.Thread(target=self._run, name="context", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, timeout_s: float | None) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        if sys.platform == "linux":  # where threads have priorities of their own; the steps come first
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BACKGROUND_NICE)
        for size in self.targets:
            try:
                if self._allowed(size):
                    self.native = self._context.another(size)
                    self.size = size
                    return
            except Exception as error:  # there is a context that works
                _log.warning("no context of %d x %d tokens: %s", size.streams, size.cells, error)


def close_soon(native: NativeContext) -> threading.Thread:
    """Free a context in a thread, which must end before the model is closed."""

    def close() -> None:
        native.close()
        return_free_memory()

    thread = threading.Thread(target=close, name="context", daemon=True)
    thread.start()
    return thread
