"""The terminal of a chat: its modes while an answer is printed, how Ctrl-C works, and how both are restored."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from corral.api.cli.history import History

try:
    import termios
except ImportError:  # on Windows, prompt_toolkit does this itself
    termios = None  # type: ignore[assignment]

__all__ = (
    "ChatTerminal",
    "Interrupts",
    "PlainTerminal",
    "TerminalModes",
    "is_dumb",
    "no_echo",
    "open_quote",
    "open_terminal",
)

_INSISTING_S = 1.0
_QUOTE = '"""'
_SET_SYSTEM = re.compile(r"/set\s+system\s+")
_UNSTYLED = b"\x1b[0m"


class ChatTerminal(Protocol):
    """A context manager. `read` returns the next message; `busy` covers the time between two messages."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def read(self) -> str:
        """The next message, which may have several lines if pasted or quoted; empty if the user discarded it.

        Raises `EOFError` at the end of the input, and `KeyboardInterrupt` for Ctrl-C if nothing has been typed.
        """
        ...

    def busy(self) -> AbstractContextManager[None]:
        """A context in which Ctrl-C raises `KeyboardInterrupt` and discards typed input, and no input is echoed."""
        ...


def open_terminal(history: History) -> ChatTerminal:
    """Line editing if the terminal supports it; otherwise plain lines."""
    if is_dumb() or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainTerminal(history=history)
    # Imported here because it takes a tenth of a second, which only a chat should pay for.
    from corral.api.cli.line_editor import EditingTerminal

    return EditingTerminal(history)


def is_dumb() -> bool:
    """Whether the terminal understands no control sequences."""
    return os.name == "posix" and os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")


def open_quote(text: str) -> bool:
    """Whether a message, or the text of ``/set system``, begins with three quotes that are not closed yet."""
    begun = _SET_SYSTEM.sub("", text.lstrip())
    return begun.startswith(_QUOTE) and not begun.removeprefix(_QUOTE).rstrip().endswith(_QUOTE)


class PlainTerminal:
    """Reads plain lines: `read` takes a prompt and returns a line, as `input` does."""

    def __init__(self, read: Callable[[str], str] = input, *, history: History | None = None) -> None:
        self._read = read
        self._history = history or History(enabled=False)
        self._interrupts = Interrupts()

    def __enter__(self) -> Self:
        self._interrupts.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._interrupts.__exit__(kind, error, traceback)

    def read(self) -> str:
        self._interrupts.forget()
        with self._interrupts.raising():
            text = self._read(">>> ")
            while open_quote(text):
                text += "\n" + self._read("... ")
        self._interrupts.forget()
        self._history.append(text)
        return text

    @contextmanager
    def busy(self) -> Iterator[None]:
        with no_echo():
            try:
                with self._interrupts.raising():
                    yield
            finally:
                if self._interrupts.stopped and termios is not None and sys.stdin.isatty():
                    termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


class Interrupts:
    """A context manager in which Ctrl-C raises `KeyboardInterrupt` only inside `raising`.

    Elsewhere it sets `stopped`, and is raised when `raising` begins; `forget` resets this. Further ones are ignored for
    a second, while the interrupted code cleans up, since people often hit the key several times; after that, the next
    one is raised again. Does nothing on a thread that receives no signals.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._raising = False
        self._raised_at: float | None = None
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def forget(self) -> None:
        self.stopped = self._raising = False

    @contextmanager
    def raising(self) -> Iterator[None]:
        self._raised_at = None
        self._raising = True
        try:
            if self.stopped:
                self._interrupt()
            yield
        finally:
            self._raising = False

    def _interrupt(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        now = time.monotonic()
        self.stopped = True
        if self._raising and (self._raised_at is None or now - self._raised_at > _INSISTING_S):
            self._raised_at = now
            raise KeyboardInterrupt


class TerminalModes:
    """A context manager that turns off local modes of the terminal at `descriptor`, and restores them at its end.

    It also writes `leave` and restores the modes before SIGTERM or SIGHUP ends the process, and turns them off again
    when the process is continued after Ctrl-Z. A background process does not change the terminal.
    """

    def __init__(self, descriptor: int, *, raw: bool, leave: bytes = b"") -> None:
        self._descriptor = descriptor
        self._raw = raw
        self._leave = leave
        self._found: list[Any] | None = None
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        if termios is None:
            return self
        with suppress(termios.error):
            self._found = termios.tcgetattr(self._descriptor)
            self._exit.callback(self.restore)
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTERM, signal.SIGHUP):
                    if signal.getsignal(number) is signal.SIG_DFL:
                        self._exit.callback(signal.signal, number, signal.signal(number, self._end))
                self._exit.callback(signal.signal, signal.SIGCONT, signal.signal(signal.SIGCONT, self._continue))
            self._set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    def restore(self) -> None:
        if self._found is not None and _in_foreground(self._descriptor):
            with suppress(OSError):
                os.write(self._descriptor, self._leave)
            with suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._found)

    def _set(self) -> None:
        if self._found is None or not _in_foreground(self._descriptor):
            return
        modes = list(self._found)
        if self._raw:  # as prompt_toolkit sets it, so that nothing changes between its prompts and our answers
            modes[0] &= ~(termios.IXON | termios.IXOFF | termios.ICRNL | termios.INLCR | termios.IGNCR)
            modes[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        else:
            modes[3] &= ~termios.ECHO
        termios.tcsetattr(self._descriptor, termios.TCSANOW, modes)

    def _end(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # closing a window sends both signals; this one ends the process
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _continue(self, number: int, frame: FrameType | None) -> None:
        with suppress(termios.error):
            self._set()


def no_echo() -> AbstractContextManager[object]:
    """A context in which typed input is not echoed into the output, and is kept for the next reader."""
    if termios is None or not sys.stdin.isatty():
        return ExitStack()
    return TerminalModes(sys.stdin.fileno(), raw=False, leave=b"" if is_dumb() else _UNSTYLED)


def _in_foreground(descriptor: int) -> bool:
    """Whether the process may set terminal modes: a background process would be stopped for it."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return True  # not the controlling terminal of this process
