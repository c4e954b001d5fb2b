"""Prints answers as they come: wrapped at words on a terminal, with timings where they are asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import click

from corral.api.cli.backends import Reply, Timings
from corral.api.cli.output import human_duration

__all__ = ("WordWrapper", "print_reply", "print_timings")

Write = Callable[[str], None]


def write_now(text: str) -> None:
    """Standard output, at once."""
    click.echo(text, nl=False)


class WordWrapper:
    """Breaks lines between words at `columns`. A word is held back until its end is known."""

    def __init__(self, write: Write, columns: int) -> None:
        self._write = write
        self._columns = columns
        self._used = 0
        self._word = ""

    def feed(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self._end_word()
                self._write("\n")
                self._used = 0
            elif character == " ":
                self._end_word()
                if self._used < self._columns:
                    self._write(" ")
                    self._used += 1
            else:
                self._word += character
                # A word without end (Chinese, a long address) is not held back for ever.
                if len(self._word) >= self._columns // 2:
                    self._end_word()

    def end(self) -> None:
        self._end_word()

    def _end_word(self) -> None:
        if self._word and self._used + len(self._word) > self._columns and self._used:
            self._write("\n")
            self._used = 0
        self._write(self._word)
        self._used += len(self._word)
        self._word = ""


def print_reply(reply: Reply, *, wrap: bool = False, write: Write = write_now) -> tuple[str, Timings | None]:
    """Prints to the end, or to Ctrl-C, which cancels the request; there are no timings then. Closes `reply`."""
    wrapper = WordWrapper(write, shutil.get_terminal_size().columns) if wrap else None
    text, timings = "", None
    try:
        while True:
            piece = next(reply)
            text += piece
            if wrapper:
                wrapper.feed(piece)
            else:
                write(piece)
    except StopIteration as end:
        timings = end.value
    except KeyboardInterrupt:
        pass
    finally:
        reply.close()  # whoever reads us may be gone as well
    if wrapper:
        wrapper.end()
    write("\n")
    return text, timings


def print_timings(timings: Timings) -> None:
    """Ollama's table, on standard error."""
    rows = [("total duration", human_duration(timings.total_ns)), ("load duration", human_duration(timings.load_ns))]
    for label, count, duration_ns in (
        ("prompt eval", timings.prompt_tokens, timings.prefill_ns),
        ("eval", timings.generated_tokens, timings.decode_ns),
    ):
        rows.append((f"{label} count", f"{count} token(s)"))
        rows.append((f"{label} duration", human_duration(duration_ns)))
        if duration_ns:
            rows.append((f"{label} rate", f"{count / duration_ns * 1e9:.2f} tokens/s"))
    for label, value in rows:
        click.echo(f"{label + ':':<22}{value}", err=True)
