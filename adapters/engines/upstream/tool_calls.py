"""Puts tool calls together from the fragments that OpenAI's API streams them in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from corral.core.errors import UpstreamError
from corral.core.malformed import MALFORMED
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta

__all__ = ("Fragment", "ToolCallFragments", "call_delta")

_LIMIT = 2 * 1024 * 1024
_FRAGMENT_COST = 64
"""The least number of characters that a fragment counts as."""
_CHECKED_LIMIT = 16 * _LIMIT
"""How many characters may be read in total to find out whether arguments are complete; usually, each is read once."""


class Function(msgspec.Struct):
    """`arguments` is a piece of JSON text; some servers send the object itself."""

    name: str | None = None
    arguments: Any = None


class Fragment(msgspec.Struct):
    """A piece of a call: the first one has the name, the others have more of the arguments' JSON."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class _Call:
    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class ToolCallFragments:
    """The calls of one answer.

    Servers distinguish calls in three ways: by `index`, as OpenAI does; only by `id`; or not at all, if each call comes
    as a whole. An id that comes with a name and differs from the call's own therefore begins another call, whatever
    the index says. An id without a name does not: old versions of vLLM sent a new one with each fragment.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._calls: list[_Call] = []
        # The latest call for each key. Searching all calls for each fragment would take minutes if there are many.
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._held = 0
        self._checked = 0

    def add(self, fragments: Iterable[Fragment | None]) -> None:
        """Raises `UpstreamError` if the calls become too long."""
        for fragment in fragments:
            if fragment is None:
                continue
            found = fragment.function or Function()
            call = self._call_of(fragment, found.name or "")
            if fragment.id and not call.id:
                call.id = fragment.id
                self._by_id[call.id] = call
            call.name = call.name or found.name or ""
            text = _text(found.arguments)
            call.arguments.append(text)
            self._held += _FRAGMENT_COST + len(text)
            if self._held > _LIMIT:
                raise self._too_long()

    def complete(self) -> list[Delta]:
        """The calls; those whose arguments are not a JSON object become texts, with warnings."""
        calls = sorted(self._calls, key=lambda call: call.index)
        deltas = [call_delta(call.name, "".join(call.arguments), call.id) for call in calls]
        read = [call for delta in deltas for call in delta.tool_calls]
        found = tuple(msgspec.structs.replace(call, index=place) for place, call in enumerate(read))
        return [delta for delta in deltas if delta.text] + ([Delta(tool_calls=found)] if found else [])

    def _call_of(self, fragment: Fragment, name: str) -> _Call:
        index = fragment.index
        if index is None:
            named = self._by_id.get(fragment.id) if fragment.id else None
            call = named or (self._calls[-1] if self._calls else None)
            index = call.index if call is not None else 0
        else:
            call = self._by_index.get(index)
        if call is None or self._begins_another(call, fragment, name):
            call = self._by_index[index] = _Call(index)
            self._calls.append(call)
        return call

    def _begins_another(self, call: _Call, fragment: Fragment, name: str) -> bool:
        if fragment.id and call.id and fragment.id != call.id:
            return bool(name) or fragment.index is None
        if fragment.id or fragment.index is not None or not (name and call.name):
            return False
        # Neither index nor id: each call comes as a whole, one after the other.
        return name != call.name or self._is_complete(call)

    def _is_complete(self, call: _Call) -> bool:
        text = "".join(call.arguments)
        self._checked += len(text) + len(call.arguments)
        if self._checked > _CHECKED_LIMIT:
            raise self._too_long()
        try:
            read_arguments(text, default="")
        except MALFORMED:
            return False
        return True

    def _too_long(self) -> UpstreamError:
        return UpstreamError(f"{self._address}: the tool calls are longer than {_LIMIT} characters")


def call_delta(name: str, arguments: str, id: str) -> Delta:
    """A call with the JSON text of its arguments, or its text and a warning if they are not a JSON object."""
    try:
        return Delta(tool_calls=(ToolCall(name=name, arguments=read_arguments(arguments), id=id or None),))
    except MALFORMED as error:
        text = f'{{"name": {msgspec.json.encode(name).decode()}, "arguments": {arguments}}}'
        return Delta(text=text, warnings=(f"a tool call was left in the text: its arguments are no object: {error}",))


def read_arguments(text: str, *, default: str = "{}") -> dict[str, Any]:
    """The arguments of a call. Raises one of `MALFORMED` for a text that is not a JSON object."""
    arguments: dict[str, Any] = msgspec.json.decode(text or default, type=dict)
    return arguments


def _text(arguments: Any) -> str:
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return msgspec.json.encode(arguments).decode()
