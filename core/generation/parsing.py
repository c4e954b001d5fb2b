"""Sends an answer through its parser."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from corral.core.ports.answer_parsers import AnswerParser
from corral.core.requests.outputs import Delta, Finished, Output

__all__ = ("parsed",)


async def parsed(outputs: AsyncGenerator[Output, None], parser: AnswerParser) -> AsyncGenerator[Output, None]:
    """The same outputs, with their deltas passed through the parser."""
    async with aclosing(outputs):
        async for output in outputs:
            if isinstance(output, Delta):
                for delta in parser.feed(output):
                    yield delta
            else:
                if isinstance(output, Finished):
                    for delta in parser.finish():
                        yield delta
                yield output
