"""Durations: Go's grammar, Ollama's keep_alive."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from corral.core.errors import InvalidRequest
from corral.core.go.durations import parse_duration_s, parse_keep_alive_s, parse_keep_alive_setting_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("-1m", -60),
        ("+5s", 5),
        ("0", 0),
        ("-0", 0),
        ("100ms", 0.1),
        ("3µs", 3e-6),
        ("3μs", 3e-6),
        ("7ns", 7e-9),
    ],
)
def test_go_durations_are_read(text: str, seconds: float) -> None:
    """Every unit, sign and fraction that Go knows."""
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("abc", 'time: invalid duration "abc"'),
        (".s", 'time: invalid duration ".s"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("3x", 'time: unknown unit "x" in duration "3x"'),
        ("5m ", 'time: unknown unit "m " in duration "5m "'),
        ('5"', 'time: unknown unit "\\"" in duration "5\\""'),
        ("3000000h", 'time: invalid duration "3000000h"'),
    ],
)
def test_bad_durations_have_gos_texts(text: str, message: str) -> None:
    """Clients see the message that Go's parser gives."""
    with pytest.raises(InvalidRequest) as caught:
        parse_duration_s(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (300, 300),
        (0.5, 0.5),
        (0, 0),
        ("0", 0),
        (-1, None),
        ("-1m", None),
        ("5m", 300),
        (None, UNSET),
        (1e30, None),
        (float("nan"), None),
    ],
)
def test_keep_alive_is_seconds_a_duration_for_ever_or_unset(value: Any, expected: Any) -> None:
    """Numbers are seconds, negative means forever, null means unset."""
    assert parse_keep_alive_s(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
        ("300", 'time: missing unit in duration "300"'),
    ],
)
def test_a_keep_alive_of_another_type_is_refused(value: Any, message: str) -> None:
    """Other JSON types have Ollama's text."""
    with pytest.raises(InvalidRequest) as caught:
        parse_keep_alive_s(value)
    assert str(caught.value) == message


def test_a_keep_alive_setting_may_be_bare_seconds() -> None:
    """The environment variable takes integers as seconds as well."""
    assert parse_keep_alive_setting_s("90") == 90
    assert parse_keep_alive_setting_s(" 2m ") == 120
    assert parse_keep_alive_setting_s("-1") is None
