"""Sizes, times and columns as Ollama writes them."""

from __future__ import annotations

import pytest

from corral.api.cli.model_facts import facts_of_reply, print_facts
from corral.api.cli.output import human_bytes, human_duration, human_time, iso_time, print_table
from corral.core.models.digests import short_digest

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (98_362_742, "98 MB"),
        (4_700_000_000, "4.7 GB"),
        (9_990_000_000, "10.0 GB"),
        (12_345_000_000_000, "12 TB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    """Sizes use powers of 1000, with one decimal below ten."""
    assert human_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second ago"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (MINUTE, "About a minute ago"),
        (5 * MINUTE, "5 minutes ago"),
        (HOUR, "About an hour ago"),
        (47 * HOUR, "47 hours ago"),
        (3 * DAY, "3 days ago"),
        (15 * DAY, "2 weeks ago"),
        (70 * DAY, "2 months ago"),
        (800 * DAY, "2 years ago"),
        (-4 * MINUTE, "4 minutes from now"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    """Times are rounded to what people would say."""
    assert human_time(1e9 - seconds, 1e9) == text


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (17, "17ns"),
        (293_900, "293.9µs"),
        (999_999, "1ms"),
        (1_234_567, "1.235ms"),
        (310_000_000, "310ms"),
        (1_523_000_000, "1.523s"),
        (59_999_900_000, "1m0s"),
        (123_400_000_000, "2m3.4s"),
        (179_990_000_000, "3m0s"),
        (3_723_000_000_000, "1h2m3s"),
    ],
)
def test_durations(duration_ns: int, text: str) -> None:
    """Durations have Go's form, with reasonable precision."""
    assert human_duration(duration_ns) == text


def test_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are four spaces apart, with none at the end."""
    print_table(("A", "BEE"), [("long one", "x"), ("y", "")])
    assert capsys.readouterr().out == "A           BEE\nlong one    x\ny\n"


def test_dates_and_digests() -> None:
    """Times are RFC 3339 in UTC; digests are shown as their first 12 digits."""
    assert iso_time(0.5) == "1970-01-01T00:00:00.500000Z"
    assert short_digest("sha256:" + "ab" * 32) == "abababababab"


def test_facts_of_a_model_that_sees(capsys: pytest.CaptureFixture[str]) -> None:
    """The projector has a section of its own; each section is as wide as its longest name and four spaces."""
    projector = {"general.architecture": "clip", "general.parameter_count": 42_560}
    projector |= {"clip.vision.embedding_length": 32, "clip.vision.projection_dim": 64}
    reply = {"details": {"family": "llama"}, "projector_info": projector, "parameters": "top_k                 7"}
    print_facts(facts_of_reply("m", reply))
    assert capsys.readouterr().out == (
        "  Model\n    architecture    llama\n\n"
        "  Projector\n    architecture        clip\n    parameters          43K\n"
        "    embedding length    32\n    dimensions          64\n\n"
        "  Parameters\n    top_k    7\n\n"
    )
