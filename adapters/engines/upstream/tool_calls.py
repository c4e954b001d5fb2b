"""Puts tool calls together from the fragments that OpenAI's API streams them in."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from corral.core.errors import UpstreamError
from corral.core.malformed import MALFORMED
from corral.core.messages import ToolCall

__all__ = ("Fragment", "ToolCallFragments")

_LIMIT = 8 * 1024 * 1024
_FRAGMENT_COST = 64
"""What keeping even an empty fragment counts for."""


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class Fragment(msgspec.Struct):
    """A piece of the call that `index` counts. The first has the name, the others more of the arguments' JSON."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class _Call:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class ToolCallFragments:
    """The calls of one answer."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._calls: dict[int, _Call] = {}
        self._held = 0

    def add(self, fragments: Iterable[Fragment]) -> None:
        """Raises `UpstreamError` for calls without end."""
        for fragment in fragments:
            found = fragment.function or Function()
            call = self._calls.setdefault(fragment.index or 0, _Call())
            call.id = call.id or fragment.id or ""
            call.name = call.name or found.name or ""
            call.arguments.append(found.arguments or "")
            self._held += _FRAGMENT_COST + len(found.arguments or "")
            if self._held > _LIMIT:
                raise UpstreamError(f"{self._address}: tool calls of more than {_LIMIT} characters")

    def complete(self, *, cut: bool) -> tuple[ToolCall, ...]:
        """Raises `UpstreamError` for arguments that are no JSON object; where the answer was cut they are left out."""
        found: list[ToolCall] = []
        for place, (_, call) in enumerate(sorted(self._calls.items())):
            try:
                arguments = msgspec.json.decode("".join(call.arguments) or "{}", type=dict)
            except MALFORMED as error:
                if cut:
                    break
                raise UpstreamError(
                    f"{self._address}: the arguments of the call of {call.name!r} are no JSON object: {error}"
                ) from error
            found.append(ToolCall(name=call.name, arguments=arguments, id=call.id or None, index=place))
        return tuple(found)
