"""Keeps track of one answer: counts tokens and bytes, takes times, and makes the outputs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from corral.adapters.engines.upstream.api_request import Exchange
from corral.core.errors import UpstreamError
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, Finished, FinishReason, Output, Started, TokenLogprob, Usage
from corral.core.wording.clipping import clipped_line

__all__ = ("IDLE_LIMIT_BYTES", "AnswerProgress", "credible")

IDLE_LIMIT_BYTES = 1024 * 1024
"""How many bytes without content may come in a row: they cost as much work, and `num_predict` does not limit them."""

_MOST = 1 << 62
_MOST_WARNINGS = 16
_LEAST_COST = 16
_LOGPROB_COST = 32
"""The least number of bytes that a delta and a log-probability count as, since each of them is an object."""


class AnswerProgress:
    """What the server reports takes precedence over what is counted and timed here.

    `generated_tokens` is None if it reports nothing. `is_full` is True once the server has sent more tokens than
    `num_predict`; those are not passed on. `max_bytes` limits the whole answer. `ignored_there` are options that the
    server says it ignores; `dropped_messages`, `dropped_tokens` and `warnings` are what it says about the answer.
    """

    def __init__(self, exchange: Exchange, address: str, *, num_predict: int | None, max_bytes: int) -> None:
        self.address = address
        self._ignored = exchange.ignored
        self._num_predict = num_predict
        self._max_bytes = self._left_bytes = max_bytes
        self._began_ns = time.perf_counter_ns()
        self._first_ns: int | None = None
        self._idle_bytes = 0
        self._counted = 0
        self.is_full = False
        self.ignored_there: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.dropped_messages: float = 0
        self.dropped_tokens: float = 0
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
        warnings: tuple[str, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Iterator[Output]:
        """The delta, and `Started` before the first. It counts as one token, or as one for each log-probability.

        Raises `UpstreamError` for an answer of more than `max_bytes`.
        """
        yield from self._start()
        if not calls and not warnings and self._num_predict is not None and self._counted >= self._num_predict:
            self.is_full = True
            return
        self._idle_bytes = 0
        entries = sum(1 + len(one.top) for one in logprobs)
        self.hold(max(_LEAST_COST, len(text.encode()) + len(thinking.encode())) + _LOGPROB_COST * entries)
        tokens = max(1, len(logprobs))
        self._counted += tokens
        yield Delta(
            text=text, thinking=thinking, tool_calls=calls, token_count=tokens, logprobs=logprobs, warnings=warnings
        )

    def idle(self, size_bytes: int) -> None:
        """Counts bytes without content. Raises `UpstreamError` for too many of them in a row."""
        self._idle_bytes += max(_LEAST_COST, size_bytes)
        if self._idle_bytes > IDLE_LIMIT_BYTES:
            raise UpstreamError(
                f"{self.address} sent {IDLE_LIMIT_BYTES} bytes without a word of the answer", "see its own log"
            )

    def hold(self, size_bytes: int) -> None:
        """Counts what the answer takes in memory. Raises as `more` does."""
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise UpstreamError(
                f"{self.address}: the answer is longer than {self._max_bytes} bytes",
                "set num_predict, or raise engines.upstream.max_answer_bytes",
            )

    def end(self, reason: FinishReason, calls: Iterable[Delta] = ()) -> Iterator[Output]:
        """The tool calls, then `Finished`."""
        yield from self._start()
        for call in calls:
            yield from self.more(call.text, calls=call.tool_calls, warnings=call.warnings)
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
            dropped_messages=credible(self.dropped_messages),
            dropped_tokens=credible(self.dropped_tokens),
            warnings=tuple(map(clipped_line, self.warnings[:_MOST_WARNINGS])),
        )

    def _start(self) -> Iterator[Output]:
        if self._first_ns is None:
            self._first_ns = time.perf_counter_ns()
            yield Started(prompt_tokens=None, ignored_options=self._ignored)


def credible(reported: float) -> int:
    """A number that a server reports, limited to the range of counts and times."""
    return round(min(max(reported, 0), _MOST))
