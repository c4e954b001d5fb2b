"""Line editing for a chat: pastes, multi-line messages, history, and input typed while an answer is printed."""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, in_terminal
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History as PromptHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import Output, create_output

from corral.api.cli.external_editor import edited_text
from corral.api.cli.history import History
from corral.api.cli.output import print_fault
from corral.api.cli.terminal import Interrupts, TerminalModes, open_quote
from corral.core.errors import CorralError

__all__ = ("EditingTerminal", "merge_pasted_lines")

_BRACKETED_PASTE_ON = "\x1b[?2004h"
_LEAVE = b"\x1b[?2004l\x1b[?25h\x1b[0m"  # bracketed paste off, the cursor visible, nothing dimmed
_MOST_TYPED_AHEAD = 1 << 20  # characters
_MOST_READ_BYTES = 1 << 20
_PAUSE_S = 0.05


class EditingTerminal:
    """A `ChatTerminal` based on prompt_toolkit. The terminal itself echoes no input until the context ends."""

    def __init__(self, history: History) -> None:
        self._input = _chat_input()
        self._output = _output()
        self._history = history
        self._interrupts = Interrupts()
        self._modes = TerminalModes(sys.stdin.fileno(), raw=True, leave=_LEAVE)
        self._session: PromptSession[str] = PromptSession(
            ">>> ",
            multiline=True,
            prompt_continuation="... ",
            placeholder=_placeholder,
            history=_Remembered(history),
            key_bindings=_keys(),
            enable_suspend=True,
            input=self._input,
            output=self._output,
        )

    def __enter__(self) -> Self:
        self._interrupts.__enter__()
        self._modes.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._modes.__exit__(kind, error, traceback)
        self._interrupts.__exit__(kind, error, traceback)

    def read(self) -> str:
        self._interrupts.forget()
        try:
            # We show errors ourselves; prompt_toolkit would wait for Enter after each.
            text = self._session.prompt(set_exception_handler=False)
        except KeyboardInterrupt:
            if self._session.default_buffer.text:
                return ""
            raise
        # Bytes that are not UTF-8 arrive as lone surrogates, which no request can carry.
        return text.encode(errors="surrogateescape").decode(errors="replace").rstrip("\n")

    @contextmanager
    def busy(self) -> Iterator[None]:
        with ExitStack() as stack:
            if sys.platform != "win32":
                self._output.write_raw(_BRACKETED_PASTE_ON)  # each prompt turns it off when it ends
                self._output.flush()
                stack.enter_context(_TypedAhead(self._input, self._modes, self._interrupts))
            stack.enter_context(self._interrupts.raising())
            yield


class _TypedAhead:
    """A context manager that reads keys on a thread while an answer is printed, and keeps them for the next prompt.

    It reads continuously, so that Ctrl-C is noticed after any amount of pasted text; input before it is dropped.
    """

    def __init__(self, source: Input, modes: TerminalModes, interrupts: Interrupts) -> None:
        self._source = source
        self._modes = modes
        self._interrupts = interrupts
        self._keys: list[KeyPress] = []
        self._size = 0
        self._saw_interrupt = False
        self._stop_read, self._stop_write = os.pipe()
        self._signal_read, self._signal_write = os.pipe()
        os.set_blocking(self._signal_write, False)
        self._thread = threading.Thread(target=self._run, name="corral-keys", daemon=True)
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = signal.set_wakeup_fd(self._signal_write, warn_on_full_buffer=False)
            self._exit.callback(signal.set_wakeup_fd, before)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()
        os.close(self._stop_write)
        self._thread.join()
        for descriptor in (self._stop_read, self._signal_read, self._signal_write):
            os.close(descriptor)
        if self._interrupts.stopped and not self._saw_interrupt:  # the signal came from elsewhere
            self._keys.clear()
        store_typeahead(self._source, self._keys)

    def _run(self) -> None:
        self._take(get_typeahead(self._source))  # what the prompt read beyond its message
        watched = [self._source.fileno(), self._stop_read, self._signal_read]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._stop_read in ready:
                break
            if self._signal_read in ready:
                self._send_again(os.read(self._signal_read, 64))
            if self._source.fileno() in ready:
                keys = self._source.read_keys()
                if self._source.closed:  # the window is closed too, so nobody is waiting for the answer
                    watched.remove(self._source.fileno())
                    _signal_main_thread(signal.SIGINT)
                self._take(keys)
        self._keys += self._source.flush_keys()

    def _send_again(self, numbers: bytes) -> None:
        """Repeats signals: one that arrives just before the main thread starts to wait would not wake it."""
        time.sleep(_PAUSE_S)
        for number in {signal.SIGTERM, signal.SIGHUP, signal.SIGINT} & set(numbers):
            if number != signal.SIGINT or not self._interrupts.stopped:
                _signal_main_thread(number)

    def _take(self, keys: Iterable[KeyPress]) -> None:
        for key in keys:
            match key.key:
                case Keys.ControlC:
                    self._keys.clear()
                    self._size = 0
                    self._saw_interrupt = True
                    _signal_main_thread(signal.SIGINT)
                case Keys.ControlZ | Keys.ControlBackslash:
                    self._modes.restore()
                    os.kill(0, signal.SIGTSTP if key.key is Keys.ControlZ else signal.SIGQUIT)
                case Keys.ControlS | Keys.ControlQ:
                    pass  # often typed to pause the output; at the prompt they would search the history
                case _ if self._size < _MOST_TYPED_AHEAD:
                    self._keys.append(key)
                    self._size += len(key.data)


def _signal_main_thread(number: int) -> None:
    """Wakes the main thread, which waits for the answer; a signal to the process might reach another thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


class _Remembered(PromptHistory):
    """Our `History` as prompt_toolkit's."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._history.entries())

    def store_string(self, string: str) -> None:
        self._history.append(string)


def _keys() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _send(event: KeyPressEvent) -> None:
        if open_quote(event.current_buffer.text):
            event.current_buffer.newline(copy_margin=False)
        else:
            event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _break_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @bindings.add("c-g")
    async def _edit(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        async with in_terminal():
            try:
                text = edited_text(buffer.text)
            except CorralError as fault:
                print_fault(fault)
                return
        buffer.document = Document(text, len(text))

    return bindings


def _placeholder() -> FormattedText:
    """Empty once the prompt is done, so that it does not stay in the scrollback."""
    return FormattedText([] if get_app().is_done else [("ansibrightblack", "Send a message (/? for help)")])


def _output() -> Output:
    output = create_output(sys.stdout)
    # A terminal that is asked for its cursor position may reply in the middle of an answer, or never.
    if hasattr(output, "enable_cpr"):
        output.enable_cpr = False
    return output


def merge_pasted_lines(keys: Sequence[KeyPress]) -> list[KeyPress]:
    """The keys that arrived at once, with several lines of text among them merged into one paste.

    For terminals without bracketed paste. A final Enter is kept, and so is every Enter if a line is a command.
    """
    merged: list[KeyPress] = []
    for typed, group in itertools.groupby(keys, key=_is_text):
        run = list(group)
        text = "".join(key.data for key in run).replace("\r\n", "\n").replace("\r", "\n") if typed else ""
        pasted = text.rstrip("\n")
        if "\n" in pasted and not any(line.startswith("/") for line in pasted.split("\n")):
            merged.append(KeyPress(Keys.BracketedPaste, pasted))
            merged += [KeyPress(Keys.ControlM, "\r")] if pasted != text else []
        else:
            merged += run
    return merged


def _is_text(key: KeyPress) -> bool:
    return not isinstance(key.key, Keys) or key.key in (Keys.ControlM, Keys.ControlJ, Keys.ControlI)


def _chat_input() -> Input:
    if sys.platform == "win32":
        return create_input(sys.stdin)

    from prompt_toolkit.input.vt100 import Vt100Input

    class ChatInput(Vt100Input):
        """Reads all available input at once, so that a large paste is not parsed in many pieces."""

        def read_keys(self) -> list[KeyPress]:
            data = piece = self.stdin_reader.read(_MOST_READ_BYTES)
            while piece and len(data) < _MOST_READ_BYTES:
                lines = max(data.find(end, 0, len(data) - 1) for end in "\r\n") >= 0
                if lines and data.endswith(("\r", "\n")):
                    # Only a pause shows whether these were the last lines of a paste.
                    select.select([self.fileno()], [], [], _PAUSE_S)
                piece = self.stdin_reader.read(_MOST_READ_BYTES)
                data += piece
            self.vt100_parser.feed(data)
            return merge_pasted_lines(super().read_keys())

    return ChatInput(sys.stdin)
