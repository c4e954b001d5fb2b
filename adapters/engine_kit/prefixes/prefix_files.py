"""The files of one model's prefixes, read and written in threads, so that no step waits for a disk."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from corral.adapters.engine_kit.prefixes.prefix_file import PrefixHead
from corral.adapters.engine_kit.prefixes.prefix_folder import PrefixFolder, StoredPrefix

__all__ = ("PrefixFiles",)


class PrefixFiles:
    """`owner` identifies everything that states depend on besides their keys, and begins with the digest of the
    weights. `found` are the prefixes that are there already. One thread owns it.
    """

    def __init__(self, folder: PrefixFolder, owner: str, model: str) -> None:
        self._folder = folder
        self.owner = owner
        self.model = model
        self._stop = threading.Event()
        self._known = folder.cleared_at(owner)
        self._readers = ThreadPoolExecutor(1, "prefix reader")
        self._writers = ThreadPoolExecutor(1, "prefix writer")
        self.found: Future[list[StoredPrefix]] = self._readers.submit(folder.scan, owner)

    def read(self, name: str, head: PrefixHead) -> Future[bytearray | None]:
        """The checked state of a file; None if it is gone or damaged."""
        return self._readers.submit(self._folder.read, name, head, self._stop.is_set)

    def write(self, head: PrefixHead, state: Any) -> Future[StoredPrefix | None]:
        """The file, once it is durable; None if it could not be written."""
        view = memoryview(state).cast("B")
        return self._writers.submit(self._folder.write, head, view, self._known, self._stop.is_set)

    def remove(self, name: str) -> None:
        """Soon, after what is being written."""
        self._writers.submit(self._folder.remove, name)

    def cleared(self) -> bool:
        """Whether the prefixes have been cleared since the last call."""
        before, self._known = self._known, self._folder.cleared_at(self.owner)
        return before != self._known

    def close(self, pending: list[Future[Any]], within_s: float) -> None:
        """Wait for what is being written, but not longer than this; what is unfinished then is given up."""
        wait(pending, within_s)
        self._stop.set()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._writers.shutdown(wait=False, cancel_futures=True)
