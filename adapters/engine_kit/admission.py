"""What every engine of completions does when a request begins: makes sure that its prompt fits, and reports its token
counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from corral.core.errors import PromptTooLong, Unsupported
from corral.core.requests.outputs import Prefilled
from corral.core.requests.requests import CompletionRequest, ContextPolicy
from corral.core.values import Value

__all__ = ("AdmittedPrompt", "admitted", "prefilled", "shortened")


class AdmittedPrompt(Value, frozen=True, kw_only=True):
    """A prompt that fits: its ids, the request's own context, and how many tokens were cut from the prompt.
    `image_tokens` is how many tokens images take besides the ids.
    """

    ids: Sequence[int]
    num_ctx: int
    dropped_tokens: int = 0
    image_tokens: int = 0


def admitted(request: CompletionRequest, ids: Sequence[int], num_ctx: int, *, image_tokens: int = 0) -> AdmittedPrompt:
    """The prompt with these ids, cut if need be and allowed, for a context of at most `num_ctx` tokens. A prompt with
    images is not cut.

    Raises `PromptTooLong` or `Unsupported`.
    """
    context = request.context
    own = min(context.num_ctx or num_ctx, num_ctx)
    kept = ids
    if len(ids) >= own and context.truncate and context.shift and not image_tokens:
        kept = shortened(ids, own, context.num_keep)
    if len(kept) + image_tokens >= own:
        raise PromptTooLong(
            f"the prompt of {len(ids) + image_tokens} tokens is longer than the context of {own}",
            "shorten the prompt, or raise num_ctx",
        )
    if not kept and not image_tokens:
        raise Unsupported("an empty prompt has nothing to continue, and this model has no BOS token to begin with")
    dropped = request.dropped_tokens + len(ids) - len(kept)
    return AdmittedPrompt(ids=kept, num_ctx=own, dropped_tokens=dropped, image_tokens=image_tokens)


def shortened(ids: Sequence[int], num_ctx: int, num_keep: int) -> Sequence[int]:
    """The first `num_keep` ids and the last ones, so that at least one of `num_ctx` tokens remains free.

    What is dropped is a multiple of half the context that may be dropped, as in llama-server: while a text grows, the
    cut stays where it is, and the prompt remains a prefix of the next one. The first id, often BOS, is always kept. If
    the context is too small to be divided, all ids are returned. A negative `num_keep` keeps nothing more.
    """
    keep = min(max(1, num_keep), num_ctx - 4)
    block = (num_ctx - keep) // 2
    if len(ids) < num_ctx or keep < 1 or block < 1:
        return ids
    drop = (len(ids) - keep - block) // block * block
    return (*ids[:keep], *ids[keep + drop :])


def prefilled(
    request: CompletionRequest,
    prompt: AdmittedPrompt,
    *,
    cached: int,
    shifts: bool,
    began_ns: int | None = None,
) -> Prefilled:
    """Report that the prompt is in memory, with `cached` tokens reused. `num_keep` has no effect unless the engine
    `shifts`, or the prompt was cut.

    `began_ns` is when the engine began with the prompt (`time.perf_counter_ns`); None if it never lets requests wait.
    """
    kept = shifts or prompt.dropped_tokens or request.context.num_keep == ContextPolicy().num_keep
    return Prefilled(
        prompt_tokens=len(prompt.ids) + prompt.image_tokens,
        cached_tokens=cached,
        dropped_tokens=prompt.dropped_tokens,
        ignored_options=() if kept else ("num_keep",),
        prompt_ids=tuple(prompt.ids) if request.return_token_ids else (),
        prefill_ns=None if began_ns is None else time.perf_counter_ns() - began_ns,
    )
