"""The lines typed into a chat, editable and remembered, where the system has readline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

__all__ = ("History",)

_MOST_LINES = 1000


class History:
    """A context: what was typed before is there inside it, and what is typed is written at its end while `enabled`.

    The file is ``$XDG_STATE_HOME/corral/history``, for its owner's eyes only. Nothing here ever raises.
    """

    def __init__(self, *, enabled: bool, environment: Mapping[str, str] = os.environ) -> None:
        self.enabled = enabled
        state = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        self._path = Path(state) / "corral" / "history"
        self._readline: ModuleType | None = None

    def __enter__(self) -> Self:
        if not self.enabled:
            return self
        with suppress(ImportError):
            import readline

            self._readline = readline
            with suppress(OSError):
                readline.read_history_file(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._readline is None or not self.enabled:
            return
        self._readline.set_history_length(_MOST_LINES)
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._readline.write_history_file(self._path)
