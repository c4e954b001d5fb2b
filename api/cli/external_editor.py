"""Lets the user write a message in their own editor."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from corral.core.errors import SettingsError

__all__ = ("edited_text",)

_VARIABLES = ("OLLAMA_EDITOR", "VISUAL", "EDITOR")


def edited_text(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text after the user has edited it, without line breaks at its end; the same text if the editor fails.

    Waits for the editor, on the main thread. Raises `SettingsError` if it cannot be started.
    """
    set_to = (environment[name] for name in _VARIABLES if environment.get(name, "").strip())
    editor = next(set_to, "notepad" if os.name == "nt" else "vi")
    descriptor, name = tempfile.mkstemp(prefix="corral-", suffix=".md")
    file = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as opened:
            opened.write(text)
        with _interrupts_left_to_the_editor():
            status = subprocess.call([*_words(editor), name])
        return file.read_text(encoding="utf-8", errors="replace").rstrip("\n") if status == 0 else text
    except OSError as fault:
        raise SettingsError(
            f"cannot start the editor {editor!r}: {fault.strerror or fault}", f"set {' or '.join(_VARIABLES)}"
        ) from fault
    finally:
        with suppress(OSError):
            file.unlink()


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command, posix=os.name != "nt")
    except ValueError:  # an unclosed quote
        return command.split()


@contextmanager
def _interrupts_left_to_the_editor() -> Iterator[None]:
    """Both programs get a Ctrl-C; here it must not end the prompt. The editor does not inherit the handler."""
    wakeup = signal.set_wakeup_fd(-1)
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(wakeup)
