"""Puts tool calls together from the fragments that OpenAI's API streams them in."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from corral.core.errors import UpstreamError
from corral.core.malformed import MALFORMED
from corral.core.messages import ToolCall

__all__ = ("Fragment", "ToolCallFragments")


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class Fragment(msgspec.Struct):
    """A piece of the call that `index` counts. The first has the name, the others more of the arguments' JSON."""

    index: int = 0
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class ToolCallFragments:
    """The calls of one answer."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._calls: dict[int, Fragment] = {}

    def add(self, fragments: Iterable[Fragment]) -> None:
        for fragment in fragments:
            call = self._calls.setdefault(fragment.index, Fragment(index=fragment.index, function=Function(name="")))
            call.id = call.id or fragment.id
            call.function.name = call.function.name or fragment.function.name
            call.function.arguments = (call.function.arguments or "") + (fragment.function.arguments or "")

    def complete(self, *, cut: bool) -> tuple[ToolCall, ...]:
        """Raises `UpstreamError` for arguments that are no JSON object; where the answer was cut they are left out."""
        found: list[ToolCall] = []
        for place, (_, call) in enumerate(sorted(self._calls.items())):
            try:
                arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict)
            except MALFORMED as error:
                if cut:
                    break
                raise UpstreamError(
                    f"{self._address}: the arguments of the call of {call.function.name!r} are no JSON object: {error}"
                ) from error
            found.append(ToolCall(name=call.function.name or "", arguments=arguments, id=call.id, index=place))
        return tuple(found)
