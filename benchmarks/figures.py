"""Computes figures from arrival times: throughput, time to first token, gaps, medians over rounds and ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.client import Exchange
from benchmarks.dialects import Generated

__all__ = ("Figures", "Stream", "figures", "median", "percentile", "ratios", "stream_of", "typical")


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one request in nanoseconds. `measured` False: it only disturbs others; its gaps do not count. Gaps
    that end before `gaps_from_ns` do not count either.
    """

    started_ns: int
    text_at_ns: list[int]
    ended_ns: int
    generated_tokens: int
    prompt_tokens: int
    cached_tokens: int | None = None
    measured: bool = True
    gaps_from_ns: int = 0


def stream_of(exchange: Exchange, generated: Generated, *, measured: bool = True) -> Stream:
    """The times and counts of a request that has ended."""
    return Stream(
        started_ns=exchange.started_ns,
        text_at_ns=generated.text_at_ns,
        ended_ns=exchange.arrivals[-1][0],
        generated_tokens=generated.generated_tokens,
        prompt_tokens=generated.prompt_tokens,
        cached_tokens=generated.cached_tokens,
        measured=measured,
    )


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one case. Times are in seconds; `gap_*` are those between arrivals of text within a stream.

    `decode_tokens_per_s` is the speed of a stream after its first token (median), `tokens_per_s` that of all streams
    together over the whole time. `late_ttft_s` is that of the requests that are not measured, if there were any: the
    late one, or the first turns of conversations. `cached` is the share of prompt tokens that a cache had, if the
    server says so. `memory_bytes` is the peak of the server with its children, `largest_bytes` that of the largest
    process.
    """

    total_s: float
    tokens_per_s: float
    decode_tokens_per_s: float
    ttft_s: float
    gap_median_s: float
    gap_p99_s: float
    gap_worst_s: float
    tokens: float
    late_ttft_s: float | None = None
    cached: float | None = None
    memory_bytes: float | None = None
    largest_bytes: float | None = None


_OPTIONAL = frozenset({"late_ttft_s", "cached", "memory_bytes", "largest_bytes"})


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies, interpolated. NaN without values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values: Sequence[float]) -> float:
    return percentile(values, 0.5)


def figures(streams: Sequence[Stream]) -> Figures:
    """Raises `RuntimeError` if a stream brought no text."""
    for stream in streams:
        if not stream.text_at_ns:
            raise RuntimeError("a stream ended without any text")
    measured = [stream for stream in streams if stream.measured]
    late = [stream for stream in streams if not stream.measured]
    gaps = [
        (after - before) / 1e9
        for stream in measured
        for before, after in zip(stream.text_at_ns, stream.text_at_ns[1:], strict=False)
        if after >= stream.gaps_from_ns
    ]
    total_s = (max(stream.ended_ns for stream in streams) - min(stream.started_ns for stream in streams)) / 1e9
    tokens = sum(stream.generated_tokens for stream in streams)
    return Figures(
        total_s=total_s,
        tokens_per_s=tokens / total_s,
        decode_tokens_per_s=median([_decode_speed(stream) for stream in measured]),
        ttft_s=median([_ttft_s(stream) for stream in measured]),
        gap_median_s=median(gaps),
        gap_p99_s=percentile(gaps, 0.99),
        gap_worst_s=max(gaps, default=math.nan),
        tokens=tokens,
        late_ttft_s=median([_ttft_s(stream) for stream in late]) if late else None,
        cached=_cached_share(measured),
    )


def _cached_share(streams: Sequence[Stream]) -> float | None:
    known = [(stream.cached_tokens, stream.prompt_tokens) for stream in streams if stream.cached_tokens is not None]
    asked = sum(prompt for _, prompt in known)
    return sum(cached for cached, _ in known) / asked if asked else None


def _ttft_s(stream: Stream) -> float:
    return (stream.text_at_ns[0] - stream.started_ns) / 1e9


def _decode_speed(stream: Stream) -> float:
    spent_ns = stream.text_at_ns[-1] - stream.text_at_ns[0]
    return (stream.generated_tokens - 1) / (spent_ns / 1e9) if spent_ns else math.nan


def typical(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure over the rounds."""
    return _fold([[getattr(one, name) for one in rounds] for name in Figures.__struct_fields__])


def ratios(ours: Sequence[Figures], theirs: Sequence[Figures]) -> Figures:
    """Each figure of ours divided by theirs, as the median over the pairs."""
    columns: list[list[float | None]] = []
    for name in Figures.__struct_fields__:
        pairs = [(getattr(one, name), getattr(other, name)) for one, other in zip(ours, theirs, strict=True)]
        columns.append([one / other if one is not None and other else None for one, other in pairs])
    return _fold(columns)


def _fold(columns: Sequence[Sequence[float | None]]) -> Figures:
    folded: dict[str, Any] = {}
    for name, column in zip(Figures.__struct_fields__, columns, strict=True):
        known = [value for value in column if value is not None and not math.isnan(value)]
        folded[name] = median(known) if known else (None if name in _OPTIONAL else math.nan)
    return Figures(**folded)
