"""Counts threads that read a loaded model besides the engine's own, so that the model is freed after their calls."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from corral.core.errors import EngineDied

__all__ = ("Users",)


class Users:
    """The threads that are reading the model. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._closed = False

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Use as a context around a call that reads the model. Raises `EngineDied` after `close`."""
        with self._changed:
            if self._closed:
                raise EngineDied("the model was unloaded")
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Call before the model is freed: refuses later calls and waits for running ones."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._count)
