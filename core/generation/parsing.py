"""Sends an answer through its parsers, and numbers the tool calls in it."""

from __future__ import annotations

import logging
import secrets
import string
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

import msgspec

from corral.core.ports.answer_parsers import AnswerParser
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, Finished, Output, Started
from corral.core.wording.clipping import clipped_line

__all__ = ("parsed",)

_log = logging.getLogger(__name__)

_ID_CHARS = string.ascii_lowercase + string.digits
_MOST_WARNINGS = 16


async def parsed(
    outputs: AsyncGenerator[Output, None],
    parsers: Sequence[AnswerParser],
    model: str,
    known_warnings: Sequence[str] = (),
    ignored: tuple[str, ...] = (),
) -> AsyncGenerator[Output, None]:
    """The same outputs, with their deltas passed through each parser in turn. Warnings are logged for `model`.

    Tool calls are numbered, and get an id like ``call_k3x9a0bz`` if they have none; `Finished` has all warnings,
    beginning with `known_warnings`, and `Started` also lists what is `ignored`.
    """
    numbering = _Numbering()
    warnings = list(known_warnings)
    async with aclosing(outputs):
        async for output in outputs:
            if isinstance(output, Delta):
                deltas = _fed(parsers, (output,))
            elif isinstance(output, Finished):
                deltas = _finished(parsers)
            else:
                deltas = ()
            for delta in deltas:
                for warning in delta.warnings if len(warnings) < _MOST_WARNINGS else ():
                    warnings.append(warning)
                    _log.warning("%s: %s", model, clipped_line(warning))
                yield numbering(delta) if delta.tool_calls else delta
            if isinstance(output, Finished):
                yield msgspec.structs.replace(output, warnings=(*output.warnings, *warnings)) if warnings else output
            elif isinstance(output, Started) and ignored:
                yield msgspec.structs.replace(output, ignored_options=(*output.ignored_options, *ignored))
            elif not isinstance(output, Delta):
                yield output


class _Numbering:
    """Gives the calls of one answer their places and ids."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, delta: Delta) -> Delta:
        return msgspec.structs.replace(delta, tool_calls=tuple(map(self._numbered, delta.tool_calls)))

    def _numbered(self, call: ToolCall) -> ToolCall:
        self._count += 1
        return msgspec.structs.replace(call, index=self._count - 1, id=call.id or _new_id())


def _new_id() -> str:
    return "call_" + "".join(secrets.choice(_ID_CHARS) for _ in range(8))


def _fed(parsers: Sequence[AnswerParser], deltas: Iterable[Delta]) -> Iterable[Delta]:
    for parser in parsers:
        deltas = [heard for delta in deltas for heard in parser.feed(delta)]
    return deltas


def _finished(parsers: Sequence[AnswerParser]) -> Iterable[Delta]:
    """What the parsers held back: what the first one did goes through the others, and so on."""
    deltas: list[Delta] = []
    for parser in parsers:
        deltas = [heard for delta in deltas for heard in parser.feed(delta)]
        deltas.extend(parser.finish())
    return deltas
