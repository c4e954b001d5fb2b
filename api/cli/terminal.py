"""The terminal that somebody chats at: how it is set while an answer is printed, and how it is given back."""

from __future__ import annotations

import os
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
except ImportError:  # Windows, where prompt_toolkit has its own ways
    termios = None  # type: ignore[assignment]

__all__ = ("ChatTerminal", "Interrupts", "PlainTerminal", "TerminalModes", "no_echo", "open_quote", "open_terminal")

_INSISTING_S = 1.0
_QUOTE = '"""'


class ChatTerminal(Protocol):
    """A context. `read` gives the next message, and `busy` is the time between two of them."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def read(self) -> str:
        """A message, of several lines where they were pasted or quoted; empty where one was thrown away.

        Raises `EOFError` at the end of the input, `KeyboardInterrupt` for Ctrl-C while nothing has been typed.
        """
        ...

    def busy(self) -> AbstractContextManager[None]:
        """Inside, Ctrl-C raises `KeyboardInterrupt` and throws away what was typed ahead; nothing typed is shown."""
        ...


def open_terminal(history: History) -> ChatTerminal:
    """Line editing where the terminal can do it; plain lines on a dumb one."""
    dumb = os.name == "posix" and os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    if dumb or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainTerminal(history=history)
    # Takes a tenth of a second to import, which nothing but a chat should pay.
    from corral.api.cli.line_editor import EditingTerminal

    return EditingTerminal(history)


def open_quote(text: str) -> bool:
    """Whether a message begins with three quotes and still lacks those that end it."""
    begun = text.lstrip()
    return begun.startswith(_QUOTE) and not begun.removeprefix(_QUOTE).rstrip().endswith(_QUOTE)


class PlainTerminal:
    """Lines as the system reads them: `read` gives one for a prompt, as `input` does."""

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
    """A context that decides when Ctrl-C raises `KeyboardInterrupt`: inside `raising` only.

    Anywhere else it is remembered, as `stopped`, and raised when `raising` begins; `forget` ends that. Further ones are
    only counted while what was interrupted cleans up, since the same key is often hit several times, but one that comes
    a second later raises again. Does nothing on a thread that gets no signals.
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
    """A context that turns local modes of the terminal at `descriptor` off, and puts back at its end what was there.

    It does so too before SIGTERM or SIGHUP end the process, writing `leave` to the terminal first, and turns them off
    again when the process is continued after Ctrl-Z. A process in the background leaves the terminal alone.
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
        if self._raw:  # as prompt_toolkit has it, so that nothing changes between its prompts and our answers
            modes[0] &= ~(termios.IXON | termios.IXOFF | termios.ICRNL | termios.INLCR | termios.IGNCR)
            modes[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        else:
            modes[3] &= ~termios.ECHO
        termios.tcsetattr(self._descriptor, termios.TCSANOW, modes)

    def _end(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a window that is closed sends both, and this is the end
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _continue(self, number: int, frame: FrameType | None) -> None:
        with suppress(termios.error):
            self._set()


def no_echo() -> AbstractContextManager[object]:
    """Inside, what is typed at the terminal is not shown amid the output, and left for whoever reads next."""
    if termios is None or not sys.stdin.isatty():
        return ExitStack()
    return TerminalModes(sys.stdin.fileno(), raw=False)


def _in_foreground(descriptor: int) -> bool:
    """Whether the process may set the terminal: one in the background would be stopped for it."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return True  # not the terminal that controls this process
