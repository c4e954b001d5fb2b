"""Hashes a file while it is being written: from its beginning to where it is contiguous, beside the writing."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from corral.adapters.system.blocking_work import stop_if_asked
from corral.adapters.system.files import CHUNK_BYTES
from corral.core.models.digests import Digest

__all__ = ("FrontierHash",)

_WORTH_A_THREAD_BYTES = 8 * CHUNK_BYTES


class FrontierHash:
    """The digest of a growing file, whose bytes are read back from the page cache. May be used in any thread.

    A thread of its own catches up whenever there is enough to hash; `digest` does the rest. The file may be written to
    meanwhile: whoever replaces bytes calls `replaced` afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changing = threading.Lock()
        self._hash = hashlib.sha256()
        self._hashed_bytes = 0
        self._frontier_bytes = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def advance(self, frontier_bytes: int) -> None:
        """The file is now complete up to there. Returns at once."""
        with self._changing:
            self._frontier_bytes = frontier_bytes
            behind = frontier_bytes - self._hashed_bytes
            if self._thread is None and behind >= _WORTH_A_THREAD_BYTES and not self._stop.is_set():
                self._thread = threading.Thread(target=self._catch_up, name="hash", daemon=True)
                self._thread.start()

    def replaced(self, start_bytes: int) -> None:
        """Bytes from there on were replaced. If they were hashed already, hashing begins anew."""
        with self._changing:
            if start_bytes < self._hashed_bytes:
                self._hash, self._hashed_bytes = hashlib.sha256(), 0

    def digest(self, size_bytes: int, stop: threading.Event) -> Digest:
        """The digest of the first `size_bytes`, all of which are written. Blocks; nothing is written meanwhile.

        Raises `OSError`, and what `stop_if_asked` raises.
        """
        self.close()
        buffer = bytearray(CHUNK_BYTES)
        with self._path.open("rb", buffering=0) as file:
            file.seek(self._hashed_bytes)
            while self._hashed_bytes < size_bytes:
                stop_if_asked(stop)
                count = file.readinto(memoryview(buffer)[: size_bytes - self._hashed_bytes]) or 0
                if not count:
                    raise OSError(f"{self._path} is shorter than {size_bytes} bytes")
                self._hash.update(memoryview(buffer)[:count])
                self._hashed_bytes += count
        return Digest("sha256:" + self._hash.hexdigest())

    def close(self) -> None:
        """Ends the thread. Blocks for at most a chunk."""
        self._stop.set()
        with self._changing:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _catch_up(self) -> None:
        buffer = bytearray(CHUNK_BYTES)
        try:
            with self._path.open("rb", buffering=0) as file:
                while not self._stop.is_set():
                    with self._changing:
                        start, current = self._hashed_bytes, self._hash
                        length = min(CHUNK_BYTES, self._frontier_bytes - start)
                        if length <= 0:
                            self._thread = None
                            return
                    file.seek(start)
                    count = file.readinto(memoryview(buffer)[:length]) or 0
                    with self._changing:
                        if current is self._hash:  # otherwise these bytes were replaced meanwhile
                            current.update(memoryview(buffer)[:count])
                            self._hashed_bytes += count
        except OSError:  # `digest` meets it again, where somebody waits for the answer
            self._stop.set()
