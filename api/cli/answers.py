"""Prints answers as they are generated, wrapped between words on a terminal, and their timings."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing

import click

from corral.api.cli.backends import Reply, Timings
from corral.api.cli.output import echo_content, human_duration
from corral.api.cli.progress import spinner
from corral.api.cli.terminal import is_dumb
from corral.core.values import Value
from corral.core.wording.printable import printable

__all__ = ("TRUNCATED", "PrintedAnswer", "print_reply", "print_timings")

TRUNCATED = "This no longer fits into the model's context, so the oldest part is left out; num_ctx makes it larger."
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"

Write = Callable[[str], None]


class PrintedAnswer(Value, frozen=True, kw_only=True):
    """What was printed. `timings` is None if Ctrl-C ended the answer."""

    text: str = ""
    thinking: str = ""
    timings: Timings | None = None


def write_now(text: str) -> None:
    """Writes to standard output immediately; control characters never reach a terminal."""
    echo_content(text, nl=False)


def print_reply(
    reply: Reply, *, wrap: bool = False, hide_thinking: bool = False, write: Write = write_now
) -> PrintedAnswer:
    """Prints until the end, or until Ctrl-C cancels the request. Closes `reply`.

    On a terminal, a spinner turns until there is something to show, and thinking is dimmed.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    timings = None
    printer = _Printer(write, wrap=wrap)
    with ExitStack() as waiting, closing(reply):  # closed even if the reader of our output has gone
        waiting.enter_context(spinner())
        try:
            while True:
                chunk = next(reply)
                thoughts.append(chunk.thinking)
                texts.append(chunk.text)
                thinking = "" if hide_thinking else chunk.thinking
                if thinking or chunk.text:
                    waiting.pop_all().close()
                printer.think(thinking)
                printer.say(chunk.text)
        except StopIteration as end:
            timings = end.value
        except KeyboardInterrupt:
            pass
        finally:
            printer.leave_thinking()
    printer.end()
    return PrintedAnswer(text="".join(texts), thinking="".join(thoughts), timings=timings)


class _Printer:
    """Writes thinking between two lines that say so, and then the text."""

    def __init__(self, write: Write, *, wrap: bool) -> None:
        self._write = write
        self._wrap = wrap
        self._thinking = False
        self._dims = sys.stdout.isatty() and not is_dumb()
        self._begin()

    def think(self, text: str) -> None:
        if text and not self._thinking:
            self._thinking = True
            self._style(_DIM)
            self._write("Thinking...\n")
            text = text.lstrip("\n")
        self._feed(text)

    def say(self, text: str) -> None:
        if text and self._thinking:
            self._flush()
            self._write("\n...done thinking.\n\n")
            self.leave_thinking()
            self._begin()
        self._feed(text)

    def leave_thinking(self) -> None:
        """Nothing that follows is dimmed. May be called twice."""
        if self._thinking:
            self._flush()
            self._thinking = False
            self._style(_PLAIN)

    def end(self) -> None:
        self._flush()
        self._write("\n")

    def _begin(self) -> None:
        self._wrapper = None
        if self._wrap:
            # Imported here because only terminals need its tables of widths.
            from corral.api.cli.word_wrap import WordWrapper

            self._wrapper = WordWrapper(self._write, shutil.get_terminal_size().columns)

    def _feed(self, text: str) -> None:
        if not text:
            return
        if self._wrapper:
            self._wrapper.feed(printable(text))  # as wide as it is shown
        else:
            self._write(text)

    def _flush(self) -> None:
        if self._wrapper:
            self._wrapper.end()

    def _style(self, code: str) -> None:
        if self._dims:
            click.echo(code, nl=False)


def print_timings(timings: Timings) -> None:
    """Prints Ollama's table of timings on standard error."""
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
