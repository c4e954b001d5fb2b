"""A conversation in turns, as Ollama hands it to templates that write a question and its answer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from corral.core.requests.messages import Message
from corral.core.values import Value

__all__ = ("Turn", "left_out", "merged", "turns")


class Turn(Value, frozen=True, kw_only=True):
    """What a template without ``.Messages`` writes at a time: a question and its answer."""

    system: str = ""
    prompt: str = ""
    response: str = ""


def merged(messages: Sequence[Message]) -> list[Message]:
    """Consecutive messages of one role as one, their texts separated by a blank line; those of tools stay apart."""
    groups: list[list[Message]] = []
    for message in messages:
        if groups and groups[-1][0].role == message.role != "tool":
            groups[-1].append(message)
        else:
            groups.append([message])
    return [_as_one(group) if len(group) > 1 else group[0] for group in groups]


def _as_one(messages: Sequence[Message]) -> Message:
    return msgspec.structs.replace(
        messages[0],
        content="\n\n".join([message.content for message in messages]),
        thinking=next((message.thinking for message in messages if message.thinking), messages[-1].thinking),
        tool_calls=tuple(chain.from_iterable(message.tool_calls for message in messages)),
        images=tuple(chain.from_iterable(message.images for message in messages)),
    )


def turns(messages: Sequence[Message]) -> Iterator[Turn]:
    """The conversation in turns; the last one is to be answered."""
    turn = Turn()
    for message in messages:
        match message.role:
            case "system":
                if turn.prompt or turn.response:
                    yield turn
                    turn = Turn()
                turn = msgspec.structs.replace(turn, system=message.content)
            case "user":
                if turn.response:
                    yield turn
                    turn = Turn()
                turn = msgspec.structs.replace(turn, prompt=message.content)
            case "assistant":
                turn = msgspec.structs.replace(turn, response=message.content)
    yield turn


def left_out(messages: Sequence[Message], *, system: bool) -> tuple[str, ...]:
    """What a template for turns has no place for, in words for the caller; `system`: it has one for system messages."""
    found = []
    if not system and any(message.role == "system" and message.content for message in messages):
        found.append("system: the chat template has no place for it")
    if any(message.tool_calls or message.role not in ("system", "user", "assistant") for message in messages):
        found.append("messages: the chat template has no place for tool calls and their results")
    return tuple(found)
