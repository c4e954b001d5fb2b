"""``/show`` in an interactive chat, and the messages that a model begins its chats with."""

from __future__ import annotations

from corral.api.cli.chat_help import first_word, say_unknown
from corral.api.cli.chat_state import ChatState
from corral.api.cli.model_facts import ModelFacts, print_facts
from corral.api.cli.output import echo, echo_content

__all__ = ("show_in_chat", "show_opening")

_KNOWN = ("info", "license", "modelfile", "parameters", "system", "template")


def show_in_chat(state: ChatState, text: str) -> None:
    """Prints what ``/show TEXT`` asks for."""
    what, value = first_word(text)
    if what not in _KNOWN:
        say_unknown("show", what, _KNOWN)
        return
    if value:
        echo(f"'/show {what}' takes no value, but got '{value}'.")
        return
    facts = state.backend.facts(state.run_options.model)
    match what:
        case "info":
            print_facts(facts)
        case "license":
            echo_content(facts.license or "No license was specified for this model.")
        case "modelfile":
            echo_content(facts.modelfile)
        case "parameters":
            echo_content(facts.parameters or "No parameters were specified for this model.")
            for line in state.option_lines():
                echo(f"{line}  (this session)")
        case "system":
            echo_content(state.system or facts.system or "No system message was specified for this model.")
        case "template":
            echo_content(facts.template or "No template was specified for this model.")


def show_opening(facts: ModelFacts) -> None:
    """Prints the messages that the model begins each chat with, as if they had been said here."""
    for message in facts.messages:
        if message["role"] == "user":
            echo(f">>> {message['content']}")
        elif message["role"] == "assistant":
            echo_content(f"{message['content']}\n")
