"""``/save`` in an interactive chat: stores the conversation as a model."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from corral.api.cli.chat_state import ChatState
from corral.api.cli.output import echo
from corral.api.library import Corral
from corral.core.errors import ModelNotFound
from corral.core.models.names import parse_name
from corral.core.requests.messages import Message
from corral.core.specs.converters import refuse_derived

__all__ = ("SaveModel", "save_chat")

SaveModel = Callable[[str, ChatState], None]


def save_chat(corral: Corral, name: str, state: ChatState) -> None:
    """Stores the chat's model as `name`, with its system text, options and messages. A name that is taken is replaced.

    The model's own opening messages come first; what was not set stays as it is. Files in messages are left out, which
    is said. Raises `InvalidName`, `ModelNotFound`, and what `ModelCatalog.publish` raises.
    """
    new_name, base = parse_name(name), state.run_options.model
    refuse_derived(new_name)
    try:
        record = corral.show(base).record
    except ModelNotFound as fault:
        raise ModelNotFound(
            f"the store on this machine has no model '{base}'", "save the chat on the machine of the server"
        ) from fault
    model = msgspec.structs.replace(
        record.content(),
        system=record.system if state.system is None else state.system,
        parameters={**record.parameters, **state.run_options.options},
        messages=(*record.messages, *_said(state)),
    )
    catalog = corral.runtime().catalog
    corral.call(lambda _: catalog.publish(new_name, model))
    if any("images" in message for message in state.messages):
        echo("The files in its messages are not saved.", err=True)


def _said(state: ChatState) -> list[Message]:
    return [Message(role=message["role"], content=message["content"]) for message in state.messages]
