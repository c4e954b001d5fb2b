"""Links the results of tools to their calls by id, as many templates want; Ollama's clients send none."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from corral.core.requests.messages import Message

__all__ = ("with_call_ids",)


def with_call_ids(messages: Iterable[Message]) -> list[Message]:
    """The messages, in which every tool call has an id, and every result the id and the name of its call.

    A result without an id belongs to the first open call of the tool that it names, or else to the first open one; if
    there is none, it is left as it is.
    """
    linked: list[Message] = []
    calls = _OpenCalls()
    for place, message in enumerate(messages):
        if message.tool_calls:
            named = [
                msgspec.structs.replace(call, id=call.id or f"call_{place}_{number}")
                for number, call in enumerate(message.tool_calls)
            ]
            calls = _OpenCalls((str(call.id), call.name) for call in named)
            message = msgspec.structs.replace(message, tool_calls=tuple(named))
        elif message.role == "tool":
            found = calls.answered(message.tool_call_id, message.tool_name)
            if found is not None:
                id, name = found
                message = msgspec.structs.replace(message, tool_call_id=id, tool_name=message.tool_name or name)
        linked.append(message)
    return linked


class _OpenCalls:
    """The calls of one message that have no result yet. Each is found without a search."""

    def __init__(self, calls: Iterable[tuple[str, str]] = ()) -> None:
        self._names = dict(calls)
        self._ids: dict[str, list[str]] = {}
        for id, name in reversed(self._names.items()):
            self._ids.setdefault(name, []).append(id)

    def answered(self, id: str | None, name: str | None) -> tuple[str, str] | None:
        """The id and the name of the call that a result belongs to, which is then no longer open."""
        if id is None:
            id = self._of_tool(name) or next(iter(self._names), None)
        if id is None or id not in self._names:
            return None
        return id, self._names.pop(id)

    def _of_tool(self, name: str | None) -> str | None:
        ids = self._ids.get(name, []) if name is not None else []
        while ids:
            id = ids.pop()
            if id in self._names:
                return id
        return None
