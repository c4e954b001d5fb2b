"""What every engine of completions checks and reports when a request begins: that its prompt fits, and its token
counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from corral.core.errors import PromptTooLong, Unsupported
from corral.core.requests.outputs import Prefilled
from corral.core.requests.requests import CompletionRequest, ContextPolicy

__all__ = ("admitted_context", "prefilled")


def admitted_context(request: CompletionRequest, prompt: Sequence[int], num_ctx: int) -> int:
    """Return the request's own context, at most `num_ctx` tokens. Raises `PromptTooLong` or `Unsupported`."""
    own = min(request.context.num_ctx or num_ctx, num_ctx)
    if len(prompt) >= own:
        raise PromptTooLong(
            f"the prompt of {len(prompt)} tokens is longer than the context of {own}",
            "shorten the prompt, or raise num_ctx",
        )
    if not prompt:
        raise Unsupported("an empty prompt has nothing to continue, and this model has no BOS token to begin with")
    return own


def prefilled(
    request: CompletionRequest,
    prompt: Sequence[int],
    *,
    cached: int,
    shifts: bool,
    began_ns: int | None = None,
    image_tokens: int = 0,
) -> Prefilled:
    """Report that the prompt is in memory, with `cached` tokens reused. `num_keep` has no effect unless the engine
    `shifts`.

    `image_tokens` is how many tokens images take besides `prompt`. `began_ns` is when the engine began with the prompt
    (`time.perf_counter_ns`); None if it never lets requests wait.
    """
    kept = () if shifts or request.context.num_keep == ContextPolicy().num_keep else ("num_keep",)
    return Prefilled(
        prompt_tokens=len(prompt) + image_tokens,
        cached_tokens=cached,
        ignored_options=kept,
        prompt_ids=tuple(prompt) if request.return_token_ids else (),
        prefill_ns=None if began_ns is None else time.perf_counter_ns() - began_ns,
    )
