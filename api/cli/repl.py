"""The interactive chat of ``corral run``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from corral.api.cli.answers import TRUNCATED, PrintedAnswer, print_reply, print_timings
from corral.api.cli.attachments import attach, names_files
from corral.api.cli.backends import Backend, RunOptions
from corral.api.cli.chat_help import COMMANDS_HELP, TOPICS_HELP, first_word, suggestion
from corral.api.cli.chat_saving import SaveModel
from corral.api.cli.chat_settings import set_in_chat
from corral.api.cli.chat_shows import show_in_chat, show_opening
from corral.api.cli.chat_state import ChatState
from corral.api.cli.history import History
from corral.api.cli.model_facts import ModelFacts
from corral.api.cli.model_names import beginning_of, suggesting
from corral.api.cli.output import echo, print_fault
from corral.api.cli.progress import load_progress
from corral.api.cli.terminal import ChatTerminal
from corral.core.errors import CorralError, ModelNotFound

__all__ = ("Repl",)

_ENDINGS = ("/bye", "/exit")


class Repl:
    """A conversation, typed at `terminal`, with one model at a time. `save` stores it as a model."""

    def __init__(
        self,
        backend: Backend,
        run_options: RunOptions,
        *,
        terminal: ChatTerminal,
        save: SaveModel,
        history: History | None = None,
        verbose: bool = False,
        wrap: bool = True,
        hide_thinking: bool = False,
    ) -> None:
        self._backend = backend
        self._terminal = terminal
        self._save_model = save
        self._state = ChatState(
            backend,
            run_options,
            history=history or History(enabled=False),
            verbose=verbose,
            wrap=wrap,
            hide_thinking=hide_thinking,
        )
        self._commands: dict[str, Callable[[str], None]] = {
            "set": lambda text: set_in_chat(self._state, text),
            "show": lambda text: show_in_chat(self._state, text),
            "load": self._load,
            "save": self._save,
            "clear": self._clear,
            "list": self._list,
            "help": self._help,
            "?": self._help,
        }

    def run(self) -> None:
        """Loads the model, and runs the chat until the input ends or ``/bye``.

        Raises what the first load raises, including `KeyboardInterrupt`.
        """
        run_options = self._state.run_options
        with self._terminal:
            with self._terminal.busy(), load_progress(run_options.model) as show:
                self._backend.load(run_options, show)
            show_opening(self._backend.facts(run_options.model))
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
        """A slash begins a command, unless it begins a path: of an image, or of a paste of several lines."""
        if not text.startswith("/"):
            return False
        if first_word(text.removeprefix("/"))[0] in self._commands:
            return True
        return "\n" not in text.strip() and not ("/" in text[1:] and names_files(text))

    def _say(self, text: str) -> None:
        state = self._state
        state.messages.append(self._message(text))
        try:
            reply = self._backend.chat(state.run_options, state.sent_messages())
            answer = print_reply(reply, wrap=state.wrap, hide_thinking=state.hide_thinking)
        except BaseException:
            state.messages.pop()  # an unanswered question would confuse the model
            raise
        if answer.text or (answer.thinking and answer.timings):
            state.messages.append(_spoken(answer))
            echo()
        elif answer.timings is None:
            state.messages.pop()  # stopped before the first word: treated as not asked
        if answer.timings is None:
            return
        if answer.timings.truncated and not state.said_truncated:
            state.said_truncated = True
            echo(TRUNCATED, err=True)
        if state.verbose:
            print_timings(answer.timings)

    def _message(self, text: str) -> dict[str, Any]:
        """A message with the files that it names, if the model can see or hear."""
        if names_files(text):
            facts = self._backend.facts(self._state.run_options.model)
            if facts.takes_files:
                attached = attach(text)
                files = {"images": attached.files} if attached.files else {}
                return {"role": "user", "content": attached.text, **files}
        return {"role": "user", "content": text}

    def _command(self, text: str) -> None:
        name, rest = first_word(text.removeprefix("/"))
        command = self._commands.get(name)
        if command is not None:
            command(rest)
        elif f"/{name}" in _ENDINGS:
            echo(f"'/{name}' takes no value, but got '{rest}'.")
        else:
            endings = [ending.removeprefix("/") for ending in _ENDINGS]
            near = suggestion("/", name, [*self._commands, *endings])
            echo(f"Unknown command '/{name}'.{near} Type /? for help")

    def _load(self, text: str) -> None:
        if not text:
            echo("Name a model: /load <model>. Available models:")
            self._list("")
            return
        model, facts = self._find(text)
        state = self._state
        run_options = msgspec.structs.replace(state.run_options, model=model)
        if run_options.think and not facts.can("thinking"):
            run_options = msgspec.structs.replace(run_options, think=None)
        with load_progress(model) as show:
            self._backend.load(run_options, show)
        state.run_options = run_options
        state.forget()
        echo(f"Loaded '{model}'.")
        show_opening(facts)

    def _find(self, text: str) -> tuple[str, ModelFacts]:
        """The model of that name, or the only one that begins with it. `ModelNotFound` has the closest names."""
        try:
            with suggesting(text, self._backend.models):
                return text, self._backend.facts(text)
        except ModelNotFound:
            taken = beginning_of(text, self._backend.models())
            if taken is None:
                raise
            return taken, self._backend.facts(taken)

    def _save(self, text: str) -> None:
        if not text or len(text.split()) > 1:
            echo("Name the new model: /save <model>")
            return
        self._save_model(text, self._state)
        echo(f"Created new model '{text}'")

    def _clear(self, text: str) -> None:
        if text:
            echo(f"'/clear' takes no value, but got '{text}'.")
            return
        self._state.forget()
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
            near = suggestion("/? ", topic, TOPICS_HELP)
            echo(f"There is no help for '{topic}'.{near or chr(10) + COMMANDS_HELP}")
        else:
            echo(TOPICS_HELP.get(topic, COMMANDS_HELP))


def _spoken(answer: PrintedAnswer) -> dict[str, Any]:
    thinking = {"thinking": answer.thinking} if answer.thinking else {}
    return {"role": "assistant", "content": answer.text, **thinking}
