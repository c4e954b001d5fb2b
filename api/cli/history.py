"""The history of messages typed into chats, appended to a file as they are sent."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ("History",)

_MOST_ENTRIES = 1000
_MOST_BYTES = 1 << 20
_LONGEST_ENTRY_BYTES = 64 << 10  # a pasted book is sent, but not stored


class History:
    """Entries, one per line, in ``$XDG_STATE_HOME/corral/history``, which only its owner can read.

    While `enabled`, `append` writes immediately, so that a closed window or a killed process loses nothing, and several
    chats can share the file. Methods never raise.
    """

    def __init__(self, *, enabled: bool, environment: Mapping[str, str] = os.environ) -> None:
        self.enabled = enabled
        state = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        self._path = Path(state) / "corral" / "history"

    def entries(self) -> list[str]:
        """The latest entries, oldest first; empty while history is off. Also trims a file that has become too long."""
        if not self.enabled:
            return []
        with suppress(OSError), os.fdopen(self._open(os.O_RDONLY), "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            file.seek(max(0, size_bytes - _MOST_BYTES))
            lines = file.read(_MOST_BYTES).split(b"\n")
            if size_bytes > _MOST_BYTES:
                lines = lines[1:]  # the first one may be incomplete
            kept = [line for line in lines if line][-_MOST_ENTRIES:]
            if size_bytes > _MOST_BYTES or len(lines) > 2 * _MOST_ENTRIES:
                with suppress(OSError):
                    self._rewrite(kept)
            return [_unescaped(line.decode(errors="replace")) for line in kept]
        return []

    def append(self, entry: str) -> None:
        line = _escaped(entry).encode(errors="replace") + b"\n"
        if not self.enabled or not entry.strip() or len(line) > _LONGEST_ENTRY_BYTES:
            return
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                    os.chmod(self._path, 0o600)
                os.write(descriptor, line)  # one write, so that the lines of two chats do not mix
            finally:
                os.close(descriptor)

    def _open(self, flags: int) -> int:
        # Non-blocking, since opening a named pipe would wait for its other end.
        descriptor = os.open(self._path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"{self._path} is not a file")
        return descriptor

    def _rewrite(self, lines: list[bytes]) -> None:
        with tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=".history-", delete=False) as file:
            try:
                file.write(b"".join(line + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, self._path)
            except OSError:
                os.unlink(file.name)
                raise


def _escaped(entry: str) -> str:
    return entry.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _unescaped(line: str) -> str:
    """The reverse of `_escaped`. A backslash before any other character stands for itself."""
    plain = {"n": "\n", "r": "\r", "\\": "\\"}
    parts, at = [], 0
    while (backslash := line.find("\\", at)) >= 0:
        following = line[backslash + 1 : backslash + 2]
        parts.append(line[at:backslash] + plain.get(following, "\\" + following))
        at = backslash + 2
    return "".join(parts) + line[at:]
