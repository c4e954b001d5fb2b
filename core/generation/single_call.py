"""Ends an answer with its first tool call, for callers who want one at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from corral.core.generation.early_end import ended_early
from corral.core.requests.outputs import Delta, Output

__all__ = ("until_first_call",)


def until_first_call(outputs: AsyncGenerator[Output, None]) -> AsyncGenerator[Output, None]:
    """The same outputs, to the first tool call, as `ended_early`."""
    return ended_early(outputs, _with_one_call, "stop")


def _with_one_call(delta: Delta) -> Delta | None:
    if not delta.tool_calls:
        return None
    first = tuple(piece for piece in delta.tool_call_pieces if piece.index == 0)
    return msgspec.structs.replace(delta, tool_call_pieces=first, tool_calls=delta.tool_calls[:1])
