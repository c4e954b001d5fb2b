"""Follows an answer to its end, and checks whether it fits its JSON Schema."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from corral.core.ports.format_checks import FormatCheck, FormatChecker
from corral.core.requests.calls import AnswerCall
from corral.core.requests.outputs import Delta, Finished, Output

__all__ = ("schema_to_check", "with_format_check")

_LONGEST = 4 << 20  # characters


def schema_to_check(call: AnswerCall) -> str | None:
    """The JSON Schema that the answer is to fit, if its format is one."""
    return call.constraint.source if call.constraint is not None and call.constraint.kind == "json_schema" else None


async def with_format_check(
    outputs: AsyncGenerator[Output, None], schema: str, checker: FormatChecker
) -> AsyncGenerator[Output, None]:
    """The same outputs; `Finished` says whether the visible text fits the schema. An answer that consists of tool calls
    is not checked.
    """
    pieces: list[str] = []
    length = 0
    called = False
    async with aclosing(outputs):
        async for output in outputs:
            if isinstance(output, Delta):
                called = called or bool(output.tool_calls)
                if length <= _LONGEST:
                    pieces.append(output.text)
                    length += len(output.text)
            elif isinstance(output, Finished) and not called:
                check = await _checked(checker, schema, pieces, length)
                output = msgspec.structs.replace(output, format_valid=check.valid, format_problem=check.problem)
            yield output


async def _checked(checker: FormatChecker, schema: str, pieces: list[str], length: int) -> FormatCheck:
    if length > _LONGEST:
        return FormatCheck(valid=None, problem="not checked: the answer is too long")
    return await asyncio.to_thread(checker.check, schema, "".join(pieces))
