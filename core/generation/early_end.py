"""Ends an answer before its model does, with the usage that it has come to."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from corral.core.requests.outputs import Delta, Finished, FinishReason, Output, Started, Usage

__all__ = ("ended_early",)


async def ended_early(
    outputs: AsyncGenerator[Output, None], last: Callable[[Delta], Delta | None], reason: FinishReason
) -> AsyncGenerator[Output, None]:
    """The same outputs, to the delta for which `last` gives what is left of it; what would follow is not generated.

    The usage is then what has been generated so far. Its times are those seen from here: the wait for a turn counts as
    prefill.
    """
    began_ns = prefilled_ns = time.perf_counter_ns()
    prompt_tokens = cached_tokens = generated_tokens = dropped_tokens = 0
    warnings: list[str] = []
    async with aclosing(outputs):
        async for output in outputs:
            if isinstance(output, Started):
                prefilled_ns = time.perf_counter_ns()
                prompt_tokens, cached_tokens = output.prompt_tokens or 0, output.cached_tokens
                dropped_tokens = output.dropped_tokens
            elif isinstance(output, Delta):
                generated_tokens += output.token_count
                warnings += output.warnings
                if (rest := last(output)) is not None:
                    yield rest
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
    yield Finished(reason=reason, usage=usage, warnings=tuple(warnings), dropped_tokens=dropped_tokens)
