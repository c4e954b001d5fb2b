"""The chat in a real pseudo-terminal: pastes, Ctrl-C, typing ahead, history, and the state of the terminal
afterwards."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
import termios

from corral.api.cli.history import History
from corral.plugins.testing.gguf import SMALL_MODEL, gguf_bytes

# A chat with a model that says what it was asked. "count" is answered without end and "short" for a while, "wait" is
# read without end, "crash" raises what nobody expects; the model "stuck" never finishes loading.
CHAT = """
import json, os, sys, threading, time
from corral.api.cli.backends import RunOptions, Timings
from corral.api.cli.model_facts import ModelFacts
from corral.api.cli.history import History
from corral.api.cli.repl import Repl
from corral.api.cli.terminal import open_terminal
from corral.api.library.results import Chunk

def save(name, state):
    print(f"SAVED{name}", flush=True)

class Backend:
    def facts(self, model):
        return ModelFacts(name=model)

    def models(self):
        return ["echo:latest", "stuck:latest"]

    def load(self, asking, on_progress):
        if asking.model == "stuck":
            print("LOADING", flush=True)
            threading.Event().wait(60)

    def chat(self, asking, messages):
        asked = messages[-1]["content"]
        if asked == "think":
            yield Chunk(thinking="hm")
            threading.Event().wait(60)
        if asked == "crash":
            raise ValueError("unexpected")
        if asked == "wait":
            print("READING", flush=True)
            threading.Event().wait(60)
        for number in range({"count": 10_000, "short": 40}.get(asked, 0)):
            yield Chunk(text=f"n{number} ")
            time.sleep(0.01)
        yield Chunk(text=f"ASKED{json.dumps(messages[-1])}")
        return Timings(total_ns=1)

history = History(enabled="CORRAL_NOHISTORY" not in os.environ)
model = sys.argv[1] if len(sys.argv) > 1 else "echo"
try:
    terminal = open_terminal(history)
    Repl(Backend(), RunOptions(model=model), terminal=terminal, save=save, history=history, wrap=False).run()
except KeyboardInterrupt:
    sys.exit(130)
print("LEFT", flush=True)
"""


COMMAND = "from corral.api.cli import main; main()"
CONTROLLED = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"


class Chat:
    """A program running in its own terminal."""

    def __init__(self, program: str, *arguments: str, **variables: str) -> None:
        self._ours, theirs = os.openpty()
        self.found = termios.tcgetattr(theirs)
        self.terminal = theirs
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"} | variables
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLED + program, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        self.raw = ""
        self.shown = ""  # without control sequences
        self._looked_at = 0

    def type(self, text: str) -> None:
        data = text.encode(errors="surrogateescape")
        while data:
            _, writable, _ = select.select([], [self._ours], [], 0.05)
            if writable:
                data = data[os.write(self._ours, data[:1024]) :]
            self._read(0)

    def expect(self, pattern: str, within_s: float = 60.0) -> re.Match[str]:
        """Waits until the pattern is shown after the last match; returns the match."""
        end = time.monotonic() + within_s
        while not (found := re.search(pattern, self.shown[self._looked_at :], re.DOTALL)):
            assert time.monotonic() < end, f"{pattern!r} is not in {self.shown[self._looked_at :][-400:]!r}"
            self._read(0.05)
        self._looked_at += found.end()
        return found

    def asked(self) -> str:
        """The next message that reached the model."""
        message = json.loads(self.expect(r"ASKED(\{.*?\})\r?\n")[1].replace("\r\n", ""))
        return str(message["content"])

    def prompt(self) -> None:
        self.expect(r">>> ")

    def ended(self) -> int:
        end = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still there: {self.shown!r}"
            self._read(0.05)
        return self.process.returncode

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self.terminal)
        os.close(self._ours)
        self.terminal = self._ours = -1

    def is_as_found(self) -> bool:
        return termios.tcgetattr(self.terminal) == self.found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._ours >= 0:
            self.hang_up()

    def _read(self, timeout_s: float) -> None:
        if select.select([self._ours], [], [], timeout_s)[0]:
            with suppress(OSError):  # how Linux says that nobody has the terminal open any more
                piece = os.read(self._ours, 65536).decode(errors="replace")
                self.raw += piece
                self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece)


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Callable[..., Chat]]:
    """``chat(*arguments, **variables)`` opens one in a new terminal."""
    opened: list[Chat] = []

    def open_chat(*arguments: str, program: str = CHAT, **variables: str) -> Chat:
        opened.append(Chat(program, *arguments, XDG_STATE_HOME=str(tmp_path), **variables))
        return opened[-1]

    yield open_chat
    for one in opened:
        one.close()


def pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


def test_a_paste_is_one_message(chat: Callable[..., Any]) -> None:
    """A paste of several lines, whether the terminal marks it or not; Enter sends it."""
    one = chat()
    one.prompt()
    one.type(pasted("def f():\r\n\treturn 1\r\n") + "\r")
    assert one.asked() == "def f():\n\treturn 1"
    one.prompt()
    one.type("first\rsecond\rthird\r")
    assert one.asked() == "first\nsecond\nthird"
    one.prompt()
    text = "\n".join(f"line {number} of a text that is longer than the terminal's queue" for number in range(500))
    one.type(text + "\n")
    assert one.asked() == text


def test_a_paste_into_an_answer_is_one_message(chat: Callable[..., Any]) -> None:
    """It waits for the next prompt, whole, even when it is longer than what a terminal's queue holds."""
    one = chat()
    one.prompt()
    text = "\n".join(f"line {number} of a long text" for number in range(1000))
    one.type("short\r")
    one.expect("n3 ")
    one.type(pasted(text) + "\r")
    assert one.asked() == "short"
    assert one.asked() == text


@pytest.mark.parametrize("question", ["count", "wait"])
def test_ctrl_c_stops_the_answer_and_what_is_queued(question: str, chat: Callable[..., Any]) -> None:
    """After any paste, and while the prompt is being read; what is typed afterwards counts."""
    one = chat()
    one.prompt()
    one.type(f"{question}\r")
    one.expect("n3 " if question == "count" else "READING")
    one.type("typed ahead\r")
    one.type(pasted("line\n" * 5000) + "\r")
    one.type("\x03")
    one.prompt()
    one.type("alone\r")
    assert one.asked() == "alone"


def test_what_waits_behind_a_queued_message_is_dropped_too(chat: Callable[..., Any]) -> None:
    """Ctrl-C during the first answer, with more questions typed ahead."""
    one = chat()
    one.prompt()
    one.type("short\r")
    one.expect("n3 ")
    one.type("/set verbose\rcount\ranother\r")  # a command among the lines: they were typed
    one.asked()
    one.expect("n3 ")
    one.type("\x03")
    one.prompt()
    one.type("alone\r")
    assert one.asked() == "alone"


def test_many_ctrl_c_stop_one_answer_and_leave_the_chat(chat: Callable[..., Any]) -> None:
    """Of ten at once, the first stops the answer, later ones print how to leave, and the chat continues."""
    one = chat()
    one.prompt()
    one.type("count\r")
    one.expect("n3 ")
    for _ in range(10):
        one.type("\x03")
        time.sleep(0.01)
    one.prompt()
    one.type("\x03")
    one.expect("Use Ctrl \\+ d or /bye to exit")
    one.type("again\r")
    assert one.asked() == "again"
    one.prompt()
    one.type("\x04")
    one.expect("LEFT")
    assert one.ended() == 0


def test_ctrl_c_right_behind_enter(chat: Callable[..., Any]) -> None:
    """Read together with the message, it still stops the answer."""
    one = chat()
    one.prompt()
    one.type("wait\r\x03")
    one.prompt()
    one.type("again\r")
    assert one.asked() == "again"


def test_ctrl_c_stops_loading(chat: Callable[..., Any]) -> None:
    """While another model loads: the chat continues with the current one. While the first model loads: the program
    ends.
    """
    one = chat()
    one.prompt()
    one.type("/load stuck\r")
    one.expect("LOADING")
    one.type("\x03")
    one.prompt()
    one.type("still\r")
    assert one.asked() == "still"
    first = chat("stuck")
    first.expect("LOADING")
    first.type("\x03")
    assert first.ended() == 130
    assert first.is_as_found()


def test_ctrl_c_at_the_prompt(chat: Callable[..., Any]) -> None:
    """Ctrl-C discards the current line; on an empty line it prints how to leave."""
    one = chat()
    one.prompt()
    one.type("half a line\x03")
    one.prompt()
    assert "to exit" not in one.shown.partition("half a line")[2]
    one.type("whole\r")
    assert one.asked() == "whole"


def test_what_is_typed_is_not_shown_in_answers(chat: Callable[..., Any]) -> None:
    """It appears at the next prompt; Ctrl-C is not shown."""
    one = chat()
    one.prompt()
    one.type("short\r")
    one.expect("n3 ")
    one.type("ahead")
    answer = one.expect(r"n4 .*?ASKED\{.*?\}\r")[0]
    assert "ahead" not in answer
    one.prompt()
    one.type("!\r")
    assert one.asked() == "ahead!"
    one.prompt()
    one.type("count\r")
    one.expect("n3 ")
    one.type("\x03")
    one.prompt()
    assert "^C" not in one.shown


@pytest.mark.parametrize("ending", ["/bye", "crash", "SIGTERM", "SIGTERM at the prompt"])
def test_the_terminal_is_left_as_it_was_found(ending: str, chat: Callable[..., Any]) -> None:
    """Echo is on and bracketed paste off, however the chat ends."""
    one = chat()
    one.prompt()
    assert not one.is_as_found()
    if ending.startswith("SIGTERM"):
        if ending == "SIGTERM":
            one.type("wait\r")
            one.expect("READING")
        one.process.terminate()
        assert one.ended() == -signal.SIGTERM
    else:
        one.type(f"{ending}\r")
        assert one.ended() == (1 if ending == "crash" else 0)
    assert one.is_as_found()
    assert one.raw.rindex("\x1b[?2004l") > one.raw.rindex("\x1b[?2004h")


def test_a_closed_window_loses_no_history(chat: Callable[..., Any], tmp_path: Path) -> None:
    """A killed process loses none either: each message is on disk, as one entry, before it is answered."""
    one = chat()
    one.prompt()
    one.type(pasted("two\nlines") + "\r")
    one.asked()
    one.prompt()
    one.type("wait\r")
    one.expect("READING")
    one.hang_up()
    assert one.process.wait(60) != 0
    killed = chat()
    killed.prompt()
    killed.type("last\r")
    killed.asked()
    killed.process.kill()
    assert History(enabled=True, environment={"XDG_STATE_HOME": str(tmp_path)}).entries() == [
        "two\nlines",
        "wait",
        "last",
    ]
    again = chat()
    again.prompt()
    again.type("\x1b[A\x1b[A\x1b[A\r")
    assert again.asked() == "two\nlines"


def test_lines_are_edited_without_history(chat: Callable[..., Any], tmp_path: Path) -> None:
    """With CORRAL_NOHISTORY nothing is stored, and every key still works."""
    one = chat(CORRAL_NOHISTORY="1")
    one.prompt()
    one.type("wrld\x1b[D\x1b[D\x1b[Do\x01hello \x05!\r")
    assert one.asked() == "hello world!"
    one.prompt()
    one.type("\x1b[A\r")
    assert one.asked() == "hello world!"
    assert not list(tmp_path.iterdir())


def test_quotes_hold_several_lines(chat: Callable[..., Any]) -> None:
    """Lines typed one by one, between triple quotes."""
    one = chat()
    one.prompt()
    for line in ('"""one\r', "two\r"):
        one.type(line)
        one.expect(r"\.\.\.")
    one.type('three"""\r')
    assert one.asked() == "one\ntwo\nthree"


def test_ctrl_g_opens_an_editor(chat: Callable[..., Any], tmp_path: Path) -> None:
    """The message comes back edited, to be sent or changed; without an editor it stays, and the error is shown."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ntrap : INT\nkill -INT 0\necho "$(cat "$2") more" > "$2"\n')
    editor.chmod(0o755)
    opened = chat(OLLAMA_EDITOR=f"{editor} -x", VISUAL="no-such-program")
    opened.prompt()
    opened.type("some\x07")
    opened.expect("more")
    opened.type(" still\r")
    assert opened.asked() == "some more still"
    opened.close()
    lacking = chat(OLLAMA_EDITOR="", VISUAL="no-such-program")
    lacking.prompt()
    lacking.type("kept\x07")
    lacking.expect("cannot start the editor 'no-such-program'")
    lacking.type("\r")
    assert lacking.asked() == "kept"


def test_thinking_is_dimmed(chat: Callable[..., Any]) -> None:
    """Only the thinking, also if Ctrl-C ends it."""
    opened = chat()
    opened.prompt()
    opened.type("think\r")
    opened.expect(r"Thinking\.\.\.\r\nhm")
    opened.type("\x03")
    opened.prompt()
    assert "\x1b[2mThinking..." in opened.raw
    assert "\x1b[0m" in opened.raw.partition("\x1b[2mThinking...")[2].partition(">>> ")[0]


def test_a_dumb_terminal(chat: Callable[..., Any]) -> None:
    """There is no line editing; Ctrl-C stops an answer and what was typed ahead, and nothing is echoed into it."""
    one = chat(TERM="dumb")
    one.prompt()
    one.type("count\n")
    one.expect("n3 ")
    one.type("ahead\n")
    one.expect("n9 ")
    one.type("\x03")
    answer = one.expect(r"^.*?>>> ")[0]
    assert "ahead" not in answer
    assert "\x1b" not in one.raw
    one.type("alone\n")
    assert one.asked() == "alone"


def test_bytes_that_are_no_text(chat: Callable[..., Any]) -> None:
    """Such bytes become replacement characters, which a request can contain."""
    one = chat()
    one.prompt()
    one.type("a\udcffb\r")
    assert one.asked() == "a\ufffdb"


def test_a_sign_of_life_until_the_first_word(chat: Callable[..., Any]) -> None:
    """A spinner turns while the prompt is read, and is gone from the line when the answer begins."""
    one = chat()
    one.prompt()
    one.type("wait\r")
    one.expect("READING")
    one.expect("[⠋⠙⠹⠸]")
    one.type("\x03")
    one.prompt()
    one.type("short\r")
    assert one.asked() == "short"
    before, _, answer = one.raw.rpartition("n0 ")
    assert before.rindex("\x1b[2K") > max(map(before.rfind, "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"))
    assert not set("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏") & set(answer)


@pytest.fixture
def run_small(chat: Callable[..., Chat], tmp_path: Path) -> Callable[..., Chat]:
    """``run_small(*arguments)``: ``corral run`` of a small model with the fake engine, slowly."""
    gguf = tmp_path / "small.gguf"
    gguf.write_bytes(gguf_bytes(SMALL_MODEL))
    folders = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "CACHE")}
    variables = folders | {"CORRAL_MODELS": str(tmp_path / "store"), "CORRAL_HOST": f"unix:{tmp_path / 's'}"}
    imported = [sys.executable, "-m", "corral.api.cli", "import", str(gguf), "--name", "small"]
    subprocess.run(imported, env=os.environ | variables, check=True, capture_output=True)

    def run(*arguments: str) -> Chat:
        how = ("--set", "engines.fake.step_delay_s=0.02", "run", "small", "--engine", "fake")
        return chat(*how, *arguments, program=COMMAND, **variables)

    return run


def test_the_command_itself_chats(run_small: Callable[..., Chat]) -> None:
    """With a real engine: Ctrl-C stops the answer and whatever is queued, and Ctrl-D leaves."""
    one = run_small("-o", "ignore_eos=true", "-o", "num_predict=-1")
    one.prompt()
    one.type("hello\r")
    one.expect(r"\w+ \w+ \w+ \w+ ")
    one.type("ahead\r\x03")
    one.expect("Send a message")
    one.type("\x04")
    assert one.ended() == 0
    assert "ahead" not in one.shown
    assert one.is_as_found()


def test_one_answer_shows_nothing_that_is_typed(run_small: Callable[..., Chat]) -> None:
    """It stays in the terminal's queue for the shell, and the terminal's state is restored."""
    one = run_small("hello", "-o", "seed=1", "-o", "ignore_eos=true", "-o", "num_predict=60")
    one.expect(r"\w+ \w+ \w+ ")
    one.type("ls\n")
    assert one.ended() == 0
    assert "ls\r" not in one.shown
    assert one.is_as_found()
    assert os.read(one.terminal, 10) == b"ls\n"


@pytest.mark.parametrize("presses", [1, 10])
def test_ctrl_c_stops_one_answer(presses: int, run_small: Callable[..., Chat]) -> None:
    """The status is the one a shell expects, without a traceback, however often the key is pressed."""
    stopped = run_small("hello", "-o", "seed=1", "-o", "ignore_eos=true", "-o", "num_predict=-1")
    stopped.expect(r"\w+ \w+ \w+ ")
    for _ in range(presses):
        stopped.type("\x03")
        time.sleep(0.02)
    assert stopped.ended() == 130, stopped.shown
    assert "Traceback" not in stopped.shown
    assert "^C" not in stopped.shown or presses > 1  # once the terminal is given back it shows what is typed
    assert stopped.is_as_found()
