"""``/save`` in an interactive chat: stores the conversation as a model."""

from __future__ import annotations

from collections.abc import Callable

from corral.api.cli.chat_state import ChatState
from corral.api.cli.output import echo
from corral.api.cli.replacing import digest_of, tell_replaced
from corral.api.library import Corral
from corral.core.catalog.create_calls import CreateCall
from corral.core.errors import ModelNotFound
from corral.core.models.names import parse_name
from corral.core.ports.sources import ignore_progress
from corral.core.requests.messages import Message

__all__ = ("SaveModel", "save_chat")

SaveModel = Callable[[str, ChatState], None]


def save_chat(corral: Corral, name: str, state: ChatState) -> None:
    """Stores the chat's model as `name`, with its system text, options and messages. A name that is taken is replaced,
    which is said.

    The model's own opening messages come first; what was not set stays as it is. Files in messages are left out, which
    is said. Raises `InvalidName`, `ModelNotFound`, and what `ModelCreator.create` raises.
    """
    new_name, base = parse_name(name), state.run_options.model
    try:
        record = corral.show(base).record
    except ModelNotFound as fault:
        raise ModelNotFound(
            f"the store on this machine has no model '{base}'", "save the chat on the machine of the server"
        ) from fault
    call = CreateCall(
        name=new_name,
        base=record.name.short,
        system=state.system or "",
        parameters=state.run_options.options,
        messages=(*record.messages, *_said(state)),
    )
    creator, before = corral.runtime().catalog.creator, digest_of(corral, new_name)
    saved = corral.call(lambda _: creator.create(call, ignore_progress))
    tell_replaced(saved.name.short, before, saved.digest)
    if any("images" in message for message in state.messages):
        echo("The files in its messages are not saved.", err=True)


def _said(state: ChatState) -> list[Message]:
    return [Message(role=message["role"], content=message["content"]) for message in state.messages]
