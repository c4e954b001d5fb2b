"""What the interactive chat says about its commands: their help, and what is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from corral.api.cli.output import echo
from corral.core.wording.suggestions import nearest

__all__ = ("COMMANDS_HELP", "TOPICS_HELP", "first_word", "say_unknown", "suggestion")

COMMANDS_HELP = """\
Available Commands:
  /set            Set session variables
  /show           Show model information
  /load <model>   Load another model and start a new conversation
  /save <model>   Save this conversation, its system text and options as a model
  /clear          Forget the conversation
  /list [prefix]  List the models
  /bye            Exit
  /?, /help       Help for a command: /? set, /? show, /? shortcuts

Use \"\"\" to begin and end a message of several lines; a paste is one message.
If the model can see or hear, the paths of files in a message attach them: What is in ./photo.png?
"""
TOPICS_HELP = {
    "set": """\
Available Commands:
  /set parameter <name> <value>   Set an option, such as temperature 0.2
  /set parameter                  Show the options that are set
  /set system <text>              Set the system text
  /set format json | noformat     Answer with a JSON object, or in any format
  /set think [level] | nothink    Turn thinking on or off; levels are low, medium, high and max
  /set history | nohistory        Turn the history on or off
  /set wordwrap | nowordwrap      Turn word wrap on or off
  /set verbose | quiet            Show or hide timings after an answer
""",
    "show": """\
Available Commands:
  /show info         Details of the model
  /show license      Its license
  /show modelfile    A Modelfile that recreates it
  /show parameters   Its parameters, and those of this session
  /show system       The system text
  /show template     Its chat template
""",
    "shortcuts": """\
Available keyboard shortcuts:
  Ctrl + a / e   Move to the beginning / the end of the line
  Alt + b / f    Move back / forward a word
  Ctrl + k / u   Delete the text after / before the cursor
  Ctrl + w       Delete the word before the cursor
  Ctrl + l       Clear the screen
  Ctrl + g       Write the message in an editor
  Alt + Enter    Start a new line
  Ctrl + c       Stop the answer, and drop what was typed meanwhile
  Ctrl + d       Exit
""",
}


def first_word(text: str) -> tuple[str, str]:
    """The first word, and the text that follows it."""
    first, *rest = text.split(maxsplit=1) or [""]
    return first, rest[0].strip() if rest else ""


def suggestion(before: str, name: str, known: Iterable[str]) -> str:
    """A sentence with the closest match, empty if there is none."""
    near = nearest(name, known)
    return f" Did you mean '{before}{near}'?" if near else ""


def say_unknown(command: str, what: str, known: Sequence[str]) -> None:
    """Says that a subcommand is missing (empty) or unknown."""
    near = suggestion(f"/{command} ", what, known) if what else ""
    if what:
        echo(f"Unknown command '/{command} {what}'.{near}")
    if not near:
        echo(TOPICS_HELP[command])
