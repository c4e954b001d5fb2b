"""The help texts of the interactive chat."""

from __future__ import annotations

__all__ = ("COMMANDS_HELP", "TOPICS_HELP")

COMMANDS_HELP = """\
Available Commands:
  /set            Set session variables
  /show           Show model information
  /load <model>   Load another model and start a new conversation
  /clear          Forget the conversation
  /list [prefix]  List the models
  /bye            Exit
  /?, /help       Help for a command: /? set, /? show, /? shortcuts

Use \"\"\" to begin and end a message of several lines; a paste is one message.
"""
TOPICS_HELP = {
    "set": """\
Available Commands:
  /set parameter <name> <value>   Set an option, such as temperature 0.2
  /set parameter                  Show the options that are set
  /set system <text>              Set the system text
  /set format json | noformat     Answer with a JSON object, or in any format
  /set history | nohistory        Turn the history on or off
  /set wordwrap | nowordwrap      Turn word wrap on or off
  /set verbose | quiet            Show or hide timings after an answer
""",
    "show": """\
Available Commands:
  /show info         Details of the model
  /show license      Its license
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
  Alt + Enter    Start a new line
  Ctrl + c       Stop the answer, and drop what was typed meanwhile
  Ctrl + d       Exit
""",
}
