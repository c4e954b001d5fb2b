"""The interactive chat of ``corral run``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from corral.api.cli.answers import TRUNCATED, print_reply, print_timings
from corral.api.cli.backends import Backend, RunOptions
from corral.api.cli.chat_help import COMMANDS_HELP, TOPICS_HELP
from corral.api.cli.history import History
from corral.api.cli.model_facts import print_facts
from corral.api.cli.model_names import beginning_of, suggesting
from corral.api.cli.output import echo, echo_content, print_fault
from corral.api.cli.progress import load_progress
from corral.api.cli.terminal import ChatTerminal
from corral.core.errors import CorralError, ModelNotFound
from corral.core.requests.options import OPTIONS, parse_parameter
from corral.core.wording.suggestions import nearest

__all__ = ("Repl",)

_ENDINGS = ("/bye", "/exit")
_SWITCHES = ("noformat", "history", "nohistory", "wordwrap", "nowordwrap", "verbose", "quiet")


class Repl:
    """A conversation, typed at `terminal`, with one model at a time."""

    def __init__(
        self,
        backend: Backend,
        run_options: RunOptions,
        *,
        terminal: ChatTerminal,
        history: History | None = None,
        verbose: bool = False,
        wrap: bool = True,
    ) -> None:
        self._backend = backend
        self._run_options = run_options
        self._terminal = terminal
        self._history = history or History(enabled=False)
        self._verbose = verbose
        self._wrap = wrap
        self._messages: list[dict[str, str]] = []
        self._said_truncated = False
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
        """Loads the model, and runs the chat until the input ends or ``/bye``.

        Raises what the first load raises, including `KeyboardInterrupt`.
        """
        with self._terminal:
            with self._terminal.busy(), load_progress(self._run_options.model) as show:
                self._backend.load(self._run_options, show)
            echo("/? for help, Ctrl + d to exit", err=True)
            while (text := self._next()) is not None:
                if not text.strip():
                    continue
                try:
                    with self._terminal.busy():
                        self._answer(text)
                except KeyboardInterrupt:
                    echo()

    def _next(self) -> str | None:
        """The next message, without the quotes of a multi-line message; None at the end."""
        try:
            text = self._terminal.read()
        except EOFError:
            echo()
            return None
        except KeyboardInterrupt:
            echo("\nUse Ctrl + d or /bye to exit.")
            return ""
        if text.strip() in _ENDINGS:
            return None
        if text.lstrip().startswith('"""'):
            return text.strip().removeprefix('"""').removesuffix('"""')
        return text

    def _answer(self, text: str) -> None:
        try:
            if self._is_command(text):
                self._command(text.strip())
            else:
                self._say(text)
        except CorralError as fault:
            print_fault(fault)

    def _is_command(self, text: str) -> bool:
        """A slash begins a command, unless it begins a paste of several lines that starts with a path."""
        if not text.startswith("/"):
            return False
        return "\n" not in text.strip() or _first_word(text.removeprefix("/"))[0] in self._commands

    def _say(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        opening = [] if self._system is None else [{"role": "system", "content": self._system}]
        try:
            reply = self._backend.chat(self._run_options, [*opening, *self._messages])
            answer, timings = print_reply(reply, wrap=self._wrap)
        except BaseException:
            self._messages.pop()  # an unanswered question would confuse the model
            raise
        if answer:
            self._messages.append({"role": "assistant", "content": answer})
            echo()
        elif timings is None:
            self._messages.pop()  # stopped before the first word: treated as not asked
        if timings is not None and timings.truncated and not self._said_truncated:
            self._said_truncated = True
            echo(TRUNCATED, err=True)
        if self._verbose and timings is not None:
            print_timings(timings)

    def _command(self, text: str) -> None:
        name, rest = _first_word(text.removeprefix("/"))
        command = self._commands.get(name)
        if command is not None:
            command(rest)
        elif f"/{name}" in _ENDINGS:
            echo(f"'/{name}' takes no value, but got '{rest}'.")
        else:
            endings = [ending.removeprefix("/") for ending in _ENDINGS]
            suggestion = _suggestion("/", name, [*self._commands, *endings])
            echo(f"Unknown command '/{name}'.{suggestion} Type /? for help")

    def _set(self, text: str) -> None:
        what, value = _first_word(text)
        if what in _SWITCHES and value:
            echo(f"'/set {what}' takes no value, but got '{value}'.")
            return
        match what:
            case "parameter" if value:
                name, *values = value.split()
                self._set_parameter(name, values)
            case "parameter":
                for line in self._parameters():
                    echo(line)
            case "system" if value:
                self._system = value.strip('"')
                echo("Set system message.")
            case "format" if value == "json":
                self._run_options = msgspec.structs.replace(self._run_options, format=value)
                echo("Set format to 'json' mode.")
            case "format" if value:
                echo(f"Unknown format '{value}'. The only format is 'json'.")
            case "noformat":
                self._run_options = msgspec.structs.replace(self._run_options, format=None)
                echo("Disabled format.")
            case "history" | "nohistory":
                self._history.enabled = what == "history"
                echo(f"Set '{what}' mode.")
            case "wordwrap" | "nowordwrap":
                self._wrap = what == "wordwrap"
                echo(f"Set '{what}' mode.")
            case "verbose" | "quiet":
                self._verbose = what == "verbose"
                echo(f"Set '{what}' mode.")
            case "system" | "format":
                echo(f"'/set {what}' needs a value.\n{TOPICS_HELP['set']}")
            case _ if what in OPTIONS:
                echo(f"Unknown command '/set {what}'. Did you mean '/set parameter {text}'?")
            case _:
                self._lacking("set", what, [*_SWITCHES, "parameter", "system", "format"])

    def _set_parameter(self, name: str, values: list[str]) -> None:
        options: dict[str, Any] = {**self._run_options.options, name: parse_parameter(name, values)}
        self._run_options = msgspec.structs.replace(self._run_options, options=options)
        echo(f"Set parameter '{name}' to '{', '.join(values)}'")

    def _parameters(self) -> Iterator[str]:
        for name, option in self._run_options.options.items():
            yield f"{name:<30} {', '.join(option) if isinstance(option, list) else option}"

    def _show(self, text: str) -> None:
        what, value = _first_word(text)
        known = ("info", "license", "parameters", "system", "template")
        if what not in known:
            self._lacking("show", what, known)
            return
        if value:
            echo(f"'/show {what}' takes no value, but got '{value}'.")
            return
        facts = self._backend.facts(self._run_options.model)
        match what:
            case "info":
                print_facts(facts)
            case "license":
                echo_content(facts.license or "No license was specified for this model.")
            case "parameters":
                echo_content(facts.parameters or "No parameters were specified for this model.")
                for line in self._parameters():
                    echo(f"{line}  (this session)")
            case "system":
                echo_content(self._system or facts.system or "No system message was specified for this model.")
            case "template":
                echo_content(facts.template or "No template was specified for this model.")

    def _load(self, text: str) -> None:
        if not text:
            echo("Name a model: /load <model>. Available models:")
            self._list("")
            return
        model = self._find(text)
        run_options = msgspec.structs.replace(self._run_options, model=model)
        with load_progress(model) as show:
            self._backend.load(run_options, show)
        self._run_options = run_options
        self._messages.clear()
        self._said_truncated = False
        echo(f"Loaded '{model}'.")

    def _find(self, text: str) -> str:
        """The model of that name, or the only one that begins with it. `ModelNotFound` has the closest names."""
        try:
            with suggesting(text, self._backend.models):
                self._backend.facts(text)
        except ModelNotFound:
            taken = beginning_of(text, self._backend.models())
            if taken is None:
                raise
            return taken
        return text

    def _clear(self, text: str) -> None:
        if text:
            echo(f"'/clear' takes no value, but got '{text}'.")
            return
        self._messages.clear()
        self._said_truncated = False
        echo("Cleared session context")

    def _list(self, text: str) -> None:
        found = [name for name in self._backend.models() if name.startswith(text)]
        for name in found:
            echo(name)
        if not found:
            echo(f"No model name begins with '{text}'." if text else "There are no models.")

    def _help(self, text: str) -> None:
        topic = text.removeprefix("/")
        if topic and topic not in TOPICS_HELP:
            suggestion = _suggestion("/? ", topic, TOPICS_HELP)
            echo(f"There is no help for '{topic}'.{suggestion or chr(10) + COMMANDS_HELP}")
        else:
            echo(TOPICS_HELP.get(topic, COMMANDS_HELP))

    def _lacking(self, command: str, what: str, known: Sequence[str]) -> None:
        """Says that a subcommand is missing or unknown."""
        suggestion = _suggestion(f"/{command} ", what, known) if what else ""
        if what:
            echo(f"Unknown command '/{command} {what}'.{suggestion}")
        if not suggestion:
            echo(TOPICS_HELP[command])


def _first_word(text: str) -> tuple[str, str]:
    """The first word, and the text that follows it."""
    first, *rest = text.split(maxsplit=1) or [""]
    return first, rest[0].strip() if rest else ""


def _suggestion(before: str, name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f" Did you mean '{before}{near}'?" if near else ""
