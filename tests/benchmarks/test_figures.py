"""From arrival times to figures."""

from __future__ import annotations

import math

import msgspec
import pytest

from benchmarks.figures import Stream, figures, median, percentile, ratios, typical


def _stream(*text_at_ms: int, started_ms: int = 0, tokens: int | None = None, measured: bool = True) -> Stream:
    return Stream(
        started_ns=started_ms * 1_000_000,
        text_at_ns=[at * 1_000_000 for at in text_at_ms],
        ended_ns=text_at_ms[-1] * 1_000_000 if text_at_ms else 0,
        generated_tokens=len(text_at_ms) if tokens is None else tokens,
        prompt_tokens=1,
        measured=measured,
    )


def test_percentiles_are_interpolated() -> None:
    """The median of an even count lies between the middle two, 0 and 1 give the extremes, and no values give NaN."""
    assert median([3, 1, 2, 10]) == 2.5
    assert percentile([5, 1, 3], 0) == 1
    assert percentile([5, 1, 3], 1) == 5
    assert percentile(list(range(101)), 0.99) == pytest.approx(99)
    assert math.isnan(median([]))


def test_figures_of_two_streams() -> None:
    """Throughput is over the whole time, TTFT a median, gaps are within a stream."""
    found = figures([_stream(100, 110, 130), _stream(300, 310, 400, started_ms=100)])
    assert found.total_s == pytest.approx(0.4)
    assert found.tokens_per_s == pytest.approx(15)
    assert found.ttft_s == pytest.approx(0.15)
    assert found.gap_median_s == pytest.approx(0.015)
    assert found.gap_worst_s == pytest.approx(0.09)
    assert found.decode_tokens_per_s == pytest.approx((2 / 0.03 + 2 / 0.1) / 2)
    assert found.late_ttft_s is None


def test_a_late_stream_counts_for_its_own_ttft_only() -> None:
    """The requests that disturb the others count neither towards the gaps nor towards the TTFT."""
    found = figures([_stream(10, 20, 30), _stream(500, 900, started_ms=20, measured=False)])
    assert found.gap_worst_s == pytest.approx(0.01)
    assert found.ttft_s == pytest.approx(0.01)
    assert found.late_ttft_s == pytest.approx(0.48)


def test_gaps_before_the_disturbance_do_not_count() -> None:
    """Those from a moment on do, also the one that this moment is in."""
    stream = _stream(10, 110, 130, 180, 190)
    found = figures([msgspec.structs.replace(stream, gaps_from_ns=150_000_000)])
    assert found.gap_worst_s == pytest.approx(0.05)
    assert found.gap_median_s == pytest.approx(0.03)
    assert found.ttft_s == pytest.approx(0.01)


def test_a_stream_without_text_is_an_error() -> None:
    """A server that returns no tokens does not count as fast."""
    with pytest.raises(RuntimeError, match="without any text"):
        figures([_stream()])


def test_one_line_of_many_tokens_has_no_speed_of_its_own() -> None:
    """A stream that came in one piece has no gaps; its figures are NaN, which medians skip."""
    single = figures([_stream(50, tokens=8)])
    assert math.isnan(single.decode_tokens_per_s)
    assert math.isnan(single.gap_worst_s)
    assert typical([single, figures([_stream(10, 20)])]).gap_worst_s == pytest.approx(0.01)


def test_ratios_are_medians_of_pairs() -> None:
    """Each round's two servers are compared with each other, not medians with medians."""
    ours = [figures([_stream(10, total)]) for total in (100, 200, 900)]
    theirs = [figures([_stream(10, total)]) for total in (200, 200, 300)]
    assert ratios(ours, theirs).total_s == pytest.approx(1.0)
    assert ratios(ours, theirs).late_ttft_s is None


def test_the_share_of_cached_tokens() -> None:
    """Only requests that are measured, and whose server says how much it had in a cache, count."""
    streams = [_stream(10, 20), _stream(10, 20), _stream(10, 20, measured=False)]
    counts = zip(streams, (5, 9, 0), strict=True)
    cached = [msgspec.structs.replace(one, prompt_tokens=10, cached_tokens=count) for one, count in counts]
    assert figures(cached).cached == pytest.approx(0.7)
    assert figures(streams).cached is None
