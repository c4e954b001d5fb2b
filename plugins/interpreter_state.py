"""State that all code in a process shares and no plugin may change: built-ins, streams, search path, environment."""

from __future__ import annotations

import builtins
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from corral.core.containment import usual_stream

__all__ = ("InterpreterState",)

_SHOWN = 5
_RECURSION_LIMIT = 1000  # Python's default; a higher limit does no harm


class InterpreterState:
    """A snapshot, to compare with the state that a plugin leaves behind. A plugin may add things, but not replace or
    remove them."""

    def __init__(self) -> None:
        self._builtins = dict(vars(builtins))
        self._streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
        self._paths = list(sys.path)
        self._environment = dict(os.environ)
        self._thread_hook = threading.excepthook
        self._recursion_limit = sys.getrecursionlimit()
        self._folder: str | None = None
        with suppress(OSError):
            self._folder = os.getcwd()

    def restore(self) -> str:
        """Undoes the changes since the snapshot. Returns a description of them, empty if there are none."""
        parts = {
            "built-ins": self._restored_builtins,
            "streams": self._restored_streams,
            "sys.path": self._restored_paths,
            "environment variables": self._restored_environment,
            "settings": self._restored_settings,
        }
        told = []
        for what, restored in parts.items():
            names = restored()
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            if names:
                told.append(f"{what}: {', '.join(names[:_SHOWN])}{more}")
        return "; ".join(told)

    def _restored_builtins(self) -> list[str]:
        now, before = vars(builtins), self._builtins
        # `_` is set by the interactive prompt and by gettext.
        changed = sorted(name for name in before if name != "_" and now.get(name, now) is not before[name])
        now.update({name: before[name] for name in changed})
        return changed

    def _restored_streams(self) -> list[str]:
        changed = [
            name
            for name, stream in self._streams.items()
            # The streams of a plugin that never returned stay redirected.
            if usual_stream(getattr(sys, name, None)) is not usual_stream(stream)
        ]
        for name in changed:
            setattr(sys, name, self._streams[name])
        return changed

    def _restored_paths(self) -> list[str]:
        missing = [path for path in self._paths if path not in sys.path]
        if missing:
            sys.path[:] = [*self._paths, *(path for path in sys.path if path not in self._paths)]
        return missing

    def _restored_environment(self) -> list[str]:
        missing = sorted(name for name in self._environment if name not in os.environ)
        os.environ.update({name: self._environment[name] for name in missing})
        return missing

    def _restored_settings(self) -> list[str]:
        changed = []
        checks: dict[str, tuple[bool, Callable[[], object]]] = {
            "threading.excepthook": (
                not callable(threading.excepthook),
                lambda: setattr(threading, "excepthook", self._thread_hook),
            ),
            "the recursion limit": (
                sys.getrecursionlimit() < min(self._recursion_limit, _RECURSION_LIMIT),
                lambda: sys.setrecursionlimit(self._recursion_limit),
            ),
            "the current folder": (self._has_moved(), lambda: os.chdir(self._folder or os.sep)),
        }
        for name, (is_changed, put_back) in checks.items():
            if is_changed:
                with suppress(OSError):
                    put_back()
                changed.append(name)
        return changed

    def _has_moved(self) -> bool:
        try:
            return self._folder is not None and os.getcwd() != self._folder
        except OSError:
            return True
