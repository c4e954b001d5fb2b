"""Prints answers as they are generated, wrapped between words on a terminal, and their timings."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import click

from corral.api.cli.backends import Reply, Timings
from corral.api.cli.output import echo_content, human_duration
from corral.api.cli.progress import spinner
from corral.core.wording.printable import printable

__all__ = ("TRUNCATED", "print_reply", "print_timings")

TRUNCATED = "This no longer fits into the model's context, so the oldest part is left out; num_ctx makes it larger."

Write = Callable[[str], None]


def write_now(text: str) -> None:
    """Writes to standard output immediately; control characters never reach a terminal."""
    echo_content(text, nl=False)


def print_reply(reply: Reply, *, wrap: bool = False, write: Write = write_now) -> tuple[str, Timings | None]:
    """Prints until the end, or until Ctrl-C cancels the request; then there are no timings. Closes `reply`.

    On a terminal, a spinner turns until the first text arrives.
    """
    wrapper = None
    if wrap:
        # Imported here because only terminals need its tables of widths.
        from corral.api.cli.word_wrap import WordWrapper

        wrapper = WordWrapper(write, shutil.get_terminal_size().columns)
    text, timings = "", None
    try:
        with spinner():
            piece = next(reply)
        while True:
            text += piece
            if wrapper:
                wrapper.feed(printable(piece))  # as wide as it is shown
            else:
                write(piece)
            piece = next(reply)
    except StopIteration as end:
        timings = end.value
    except KeyboardInterrupt:
        pass
    finally:
        reply.close()  # the reader of our output may have gone as well
    if wrapper:
        wrapper.end()
    write("\n")
    return text, timings


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
