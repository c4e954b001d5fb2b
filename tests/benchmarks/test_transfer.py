"""Transfers are measured beside curl, from and to a registry of the benchmarks' own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.transfer import TransferFigures, measure_transfer


def test_ratios_are_of_speeds() -> None:
    """Twice the time is half the speed."""
    figures = TransferFigures(
        size_bytes=1, curl_pull_s=1, pull_s=2, pull_memory_bytes=1, curl_push_s=3, push_s=2, push_memory_bytes=1
    )
    assert (figures.pull_ratio, figures.push_ratio) == (0.5, 1.5)


@pytest.mark.skipif(
    not os.environ.get("CORRAL_BENCHMARKS"), reason="starts five processes; CORRAL_BENCHMARKS=1 runs it"
)
def test_a_small_run(tmp_path: Path) -> None:
    """Everything is pulled and pushed, and nothing stays behind."""
    figures = measure_transfer(1_000_000, tmp_path)
    assert min(figures.pull_s, figures.push_s, figures.curl_pull_s, figures.curl_push_s) > 0
    assert min(figures.pull_memory_bytes, figures.push_memory_bytes) > 1_000_000
    assert list(tmp_path.iterdir()) == []
