"""The interactive chat of ``corral run``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from corral.api.cli.answers import print_reply, print_timings
from corral.api.cli.backends import Asking, Backend
from corral.api.cli.facts import print_facts
from corral.api.cli.history import History
from corral.api.cli.progress import load_progress
from corral.core.errors import CorralError
from corral.core.options import parse_parameter

__all__ = ("Repl",)

_HELP = """\
Available Commands:
  /set            Set session variables
  /show           Show model information
  /load <model>   Load another model and start anew
  /clear          Forget the conversation
  /list           List the models
  /bye            Exit
  /?, /help       Help for a command: /? set, /? show, /? shortcuts

Use \"\"\" to begin and end a message of several lines.
"""
_TOPICS = {
    "set": """\
Available Commands:
  /set parameter <name> <value>   Set an option, such as temperature 0.2
  /set parameter                  Show the options that are set
  /set system <text>              Set the system text
  /set format json | noformat     Answer with a JSON object, or as the model likes
  /set history | nohistory        Remember what is typed, or do not
  /set wordwrap | nowordwrap      Break lines between words, or do not
  /set verbose | quiet            Show timings after an answer, or do not
""",
    "show": """\
Available Commands:
  /show info         What is known of the model
  /show license      Its license
  /show parameters   Its parameters, and those of this session
  /show system       The system text
  /show template     Its chat template
""",
    "shortcuts": """\
Available keyboard shortcuts:
  Ctrl + a / e   Move to the beginning / the end of the line
  Alt + b / f    Move back / forward a word
  Ctrl + k / u   Delete what is after / before the cursor
  Ctrl + w       Delete the word before the cursor
  Ctrl + l       Clear the screen
  Ctrl + c       Stop the answer
  Ctrl + d       Exit
""",
}


class Repl:
    """One conversation with one model at a time. `read` gives a line for a prompt and raises `EOFError` at the end."""

    def __init__(
        self,
        backend: Backend,
        asking: Asking,
        *,
        read: Callable[[str], str] = input,
        history: History | None = None,
        verbose: bool = False,
        wrap: bool = True,
    ) -> None:
        self._backend = backend
        self._asking = asking
        self._read = read
        self._history = history or History(enabled=False)
        self._verbose = verbose
        self._wrap = wrap
        self._messages: list[dict[str, str]] = []
        self._system: str | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "set": self._set,
            "show": self._show,
            "load": self._load,
            "clear": self._clear,
            "list": self._list,
            "help": self._help,
            "?": self._help,
        }

    def run(self) -> None:
        """Until the end of the input, or ``/bye``."""
        with self._history:
            while (text := self._next()) is not None:
                if not text.strip():
                    continue
                try:
                    if text.startswith("/"):
                        self._command(text.strip())
                    else:
                        self._say(text)
                except CorralError as fault:
                    click.echo(f"Error: {fault.message}", err=True)
                    if fault.remedy:
                        click.echo(fault.remedy, err=True)

    def _next(self) -> str | None:
        """A line, or the lines between two times three quotes; None at the end."""
        try:
            line = self._read(">>> ")
            if line.strip() in ("/bye", "/exit"):
                return None
            if not line.lstrip().startswith('"""'):
                return line
            text = line.lstrip().removeprefix('"""')
            while not text.rstrip().endswith('"""'):
                text += "\n" + self._read("... ")
            return text.rstrip().removesuffix('"""')
        except EOFError:
            click.echo()
            return None
        except KeyboardInterrupt:
            click.echo("\nUse Ctrl + d or /bye to exit.")
            return ""

    def _say(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        opening = [] if self._system is None else [{"role": "system", "content": self._system}]
        try:
            reply = self._backend.chat(self._asking, [*opening, *self._messages])
            answer, timings = print_reply(reply, wrap=self._wrap)
        except BaseException:
            self._messages.pop()  # a question without an answer would confuse the next one
            raise
        self._messages.append({"role": "assistant", "content": answer})
        click.echo()
        if self._verbose and timings is not None:
            print_timings(timings)

    def _command(self, text: str) -> None:
        name, _, rest = text.removeprefix("/").partition(" ")
        command = self._commands.get(name)
        if command is None:
            click.echo(f"Unknown command '/{name}'. Type /? for help")
        else:
            command(rest.strip())

    def _set(self, text: str) -> None:
        what, _, value = text.partition(" ")
        value = value.strip()
        match what:
            case "parameter" if value:
                name, *values = value.split()
                self._set_parameter(name, values)
            case "parameter":
                for name, option in self._asking.options.items():
                    click.echo(f"{name:<30} {option}")
            case "system" if value:
                self._system = value.strip('"')
                click.echo("Set system message.")
            case "format" if value == "json":
                self._asking = msgspec.structs.replace(self._asking, format=value)
                click.echo("Set format to 'json' mode.")
            case "noformat":
                self._asking = msgspec.structs.replace(self._asking, format=None)
                click.echo("Disabled format.")
            case "history" | "nohistory":
                self._history.enabled = what == "history"
            case "wordwrap" | "nowordwrap":
                self._wrap = what == "wordwrap"
                click.echo(f"Set '{what}' mode.")
            case "verbose" | "quiet":
                self._verbose = what == "verbose"
                click.echo(f"Set '{what}' mode.")
            case _:
                click.echo(_TOPICS["set"])

    def _set_parameter(self, name: str, values: list[str]) -> None:
        options: dict[str, Any] = {**self._asking.options, name: parse_parameter(name, values)}
        self._asking = msgspec.structs.replace(self._asking, options=options)
        click.echo(f"Set parameter '{name}' to '{', '.join(values)}'")

    def _show(self, text: str) -> None:
        facts = self._backend.facts(self._asking.model)
        match text:
            case "info":
                print_facts(facts)
            case "license":
                click.echo(facts.license or "No license was specified for this model.")
            case "parameters":
                click.echo(facts.parameters or "No parameters were specified for this model.")
                for name, option in self._asking.options.items():
                    click.echo(f"{name:<30} {option}  (this session)")
            case "system":
                click.echo(self._system or facts.system or "No system message was specified for this model.")
            case "template":
                click.echo(facts.template or "No template was specified for this model.")
            case _:
                click.echo(_TOPICS["show"])

    def _load(self, text: str) -> None:
        asking = msgspec.structs.replace(self._asking, model=text)
        self._backend.facts(text)
        with load_progress(text) as show:
            self._backend.load(asking, show)
        self._asking = asking
        self._messages.clear()
        click.echo(f"Loaded '{text}'.")

    def _clear(self, text: str) -> None:
        self._messages.clear()
        click.echo("Cleared session context")

    def _list(self, text: str) -> None:
        for name in self._backend.models():
            click.echo(name)

    def _help(self, text: str) -> None:
        click.echo(_TOPICS.get(text.removeprefix("/"), _HELP))
