"""Keeps the books of one answer: what has been counted and timed, and the outputs that go with it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from corral.adapters.engines.upstream.exchange import Exchange
from corral.core.messages import ToolCall
from corral.core.outputs import ChatDelta, Delta, Finished, FinishReason, Output, Started, TokenLogprob, Usage

__all__ = ("Progress", "credible")

_MOST = 1 << 62


class Progress:
    """What the server reports wins over what is counted and timed here. `generated_tokens` None: it said nothing."""

    def __init__(self, exchange: Exchange, *, chat: bool) -> None:
        self._ignored = exchange.ignored
        self._chat = chat
        self._began_ns = time.perf_counter_ns()
        self._first_ns: int | None = None
        self._counted = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens: int | None = None
        self.prefill_ns: float = 0
        self.decode_ns: float = 0

    def more(
        self,
        text: str,
        thinking: str = "",
        calls: tuple[ToolCall, ...] = (),
        *,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Iterator[Output]:
        """`Started` where it is the first. A delta counts as one token, or as many as there are log-probabilities."""
        yield from self._start()
        tokens = max(1, len(logprobs))
        self._counted += tokens
        if self._chat:
            yield ChatDelta(content=text, thinking=thinking, tool_calls=calls, token_count=tokens, logprobs=logprobs)
        else:
            yield Delta(text=text, token_count=tokens, logprobs=logprobs)

    def end(self, reason: FinishReason, calls: tuple[ToolCall, ...] = ()) -> Iterator[Output]:
        """The tool calls, then `Finished`."""
        yield from self._start()
        if calls:
            yield from self.more("", calls=calls)
        now_ns = time.perf_counter_ns()
        first_ns = self._first_ns or now_ns
        yield Finished(
            reason=reason,
            usage=Usage(
                prompt_tokens=credible(self.prompt_tokens),
                cached_tokens=credible(min(self.cached_tokens, self.prompt_tokens)),
                generated_tokens=self._counted if self.generated_tokens is None else credible(self.generated_tokens),
                prefill_ns=credible(self.prefill_ns) or first_ns - self._began_ns,
                decode_ns=credible(self.decode_ns) or now_ns - first_ns,
            ),
        )

    def _start(self) -> Iterator[Output]:
        if self._first_ns is None:
            self._first_ns = time.perf_counter_ns()
            yield Started(prompt_tokens=None, ignored_options=self._ignored)


def credible(reported: float) -> int:
    """A number that a server reports, brought to what a count or a time can be."""
    return round(min(max(reported, 0), _MOST))
