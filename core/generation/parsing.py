"""Sends an answer through its parsers, and numbers the tool calls in it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

import msgspec

from corral.core.generation.call_numbering import CallNumbering
from corral.core.ports.answer_parsers import AnswerParser
from corral.core.requests.outputs import Delta, Finished, Output, Started
from corral.core.wording.clipping import clipped_line

__all__ = ("parsed",)

_log = logging.getLogger(__name__)

_MOST_WARNINGS = 16


async def parsed(
    outputs: AsyncGenerator[Output, None],
    parsers: Sequence[AnswerParser],
    model: str,
    known_warnings: Sequence[str] = (),
    ignored: tuple[str, ...] = (),
    *,
    calls_in_pieces: bool = False,
) -> AsyncGenerator[Output, None]:
    """The same outputs, with their deltas passed through each parser in turn. Warnings are logged for `model`.

    Tool calls are numbered, and get an id like ``call_k3x9a0bz`` if they have none; with `calls_in_pieces`, each of
    them comes in pieces as well. `Finished` has all warnings, beginning with `known_warnings`, and `Started` also lists
    what is `ignored`.

    Raises `BrokenToolCall` if a call whose pieces have come out cannot be completed, unless the answer has reached its
    limit: then the call stays as it is.
    """
    numbering = CallNumbering(in_pieces=calls_in_pieces)
    warnings = list(known_warnings)
    async with aclosing(outputs):
        async for output in outputs:
            if isinstance(output, Delta):
                deltas = _fed(parsers, (output,))
            elif isinstance(output, Finished):
                deltas = _finished(parsers)
            else:
                deltas = ()
            at_limit = isinstance(output, Finished) and output.reason == "length"
            for delta in deltas:
                if delta.tool_call_pieces or delta.tool_calls:
                    delta = numbering.at_limit(delta) if at_limit else numbering(delta)
                for warning in delta.warnings if len(warnings) < _MOST_WARNINGS else ():
                    warnings.append(warning)
                    _log.warning("%s: %s", model, clipped_line(warning))
                yield delta
            if isinstance(output, Finished):
                yield msgspec.structs.replace(output, warnings=(*output.warnings, *warnings)) if warnings else output
            elif isinstance(output, Started) and ignored:
                yield msgspec.structs.replace(output, ignored_options=(*output.ignored_options, *ignored))
            elif not isinstance(output, Delta):
                yield output


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
