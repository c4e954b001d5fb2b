"""``/set`` in an interactive chat."""

from __future__ import annotations

from typing import Any

from corral.api.cli.chat_help import TOPICS_HELP, first_word, say_unknown
from corral.api.cli.chat_state import ChatState
from corral.api.cli.output import echo
from corral.core.requests.options import OPTIONS, parse_parameter
from corral.core.requests.think_values import check_think

__all__ = ("set_in_chat",)

_SWITCHES = ("noformat", "history", "nohistory", "wordwrap", "nowordwrap", "verbose", "quiet", "nothink")


def set_in_chat(state: ChatState, text: str) -> None:
    """Obeys ``/set TEXT`` and says so. Raises `InvalidOption` or `InvalidRequest` for an invalid value."""
    what, value = first_word(text)
    if what in _SWITCHES and value:
        echo(f"'/set {what}' takes no value, but got '{value}'.")
        return
    match what:
        case "parameter" if value:
            name, *values = value.split()
            _set_parameter(state, name, values)
        case "parameter":
            for line in state.option_lines():
                echo(line)
        case "system" if value:
            state.system = value.strip('"')
            echo("Set system message.")
        case "format" if value == "json":
            state.change(format=value)
            echo("Set format to 'json' mode.")
        case "format" if value:
            echo(f"Unknown format '{value}'. The only format is 'json'.")
        case "noformat":
            state.change(format=None)
            echo("Disabled format.")
        case "think":
            _set_think(state, value)
        case "nothink":
            state.change(think=False)
            echo("Set 'nothink' mode.")
        case "history" | "nohistory":
            state.history.enabled = what == "history"
            echo(f"Set '{what}' mode.")
        case "wordwrap" | "nowordwrap":
            state.wrap = what == "wordwrap"
            echo(f"Set '{what}' mode.")
        case "verbose" | "quiet":
            state.verbose = what == "verbose"
            echo(f"Set '{what}' mode.")
        case "system" | "format":
            echo(f"'/set {what}' needs a value.\n{TOPICS_HELP['set']}")
        case _ if what in OPTIONS:
            echo(f"Unknown command '/set {what}'. Did you mean '/set parameter {text}'?")
        case _:
            say_unknown("set", what, [*_SWITCHES, "parameter", "system", "format", "think"])


def _set_parameter(state: ChatState, name: str, values: list[str]) -> None:
    options: dict[str, Any] = {**state.run_options.options, name: parse_parameter(name, values)}
    state.change(options=options)
    echo(f"Set parameter '{name}' to '{', '.join(values)}'")


def _set_think(state: ChatState, level: str) -> None:
    think = check_think(level or True)
    model = state.run_options.model
    if not state.backend.facts(model).can("thinking"):
        echo(f"'{model}' does not support thinking.")
        return
    state.change(think=think)
    echo(f"Set 'think' mode to '{level}'." if level else "Set 'think' mode.")
