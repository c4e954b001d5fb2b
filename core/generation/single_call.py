"""Ends an answer with its first tool call, for callers who want one at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from corral.core.requests.outputs import Delta, Finished, Output, Started, Usage

__all__ = ("until_first_call",)


async def until_first_call(outputs: AsyncGenerator[Output, None]) -> AsyncGenerator[Output, None]:
    """The same outputs, to the first tool call; what would follow is not generated.

    The usage is then what has been generated so far. Its times are those seen from here: the wait for a turn counts as
    prefill.
    """
    began_ns = prefilled_ns = time.perf_counter_ns()
    prompt_tokens = cached_tokens = generated_tokens = 0
    warnings: list[str] = []
    async with aclosing(outputs):
        async for output in outputs:
            if isinstance(output, Started):
                prefilled_ns = time.perf_counter_ns()
                prompt_tokens, cached_tokens = output.prompt_tokens or 0, output.cached_tokens
            elif isinstance(output, Delta):
                generated_tokens += output.token_count
                warnings += output.warnings
                if output.tool_calls:
                    first = tuple(piece for piece in output.tool_call_pieces if piece.index == 0)
                    yield msgspec.structs.replace(output, tool_call_pieces=first, tool_calls=output.tool_calls[:1])
                    break
            yield output
        else:
            return
    usage = Usage(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        generated_tokens=generated_tokens,
        prefill_ns=prefilled_ns - began_ns,
        decode_ns=time.perf_counter_ns() - prefilled_ns,
    )
    yield Finished(reason="stop", usage=usage, warnings=tuple(warnings))
