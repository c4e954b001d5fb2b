"""Prints figures as tables and writes them as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figures, ratios, typical

__all__ = ("print_figures", "print_table", "write_json")

_COLUMNS: tuple[tuple[str, str, float, str], ...] = (
    ("total s", "total_s", 1, ".2f"),
    ("tok/s", "tokens_per_s", 1, ".1f"),
    ("tok/s a stream", "decode_tokens_per_s", 1, ".1f"),
    ("TTFT ms", "ttft_s", 1000, ".0f"),
    ("gap ms", "gap_median_s", 1000, ".1f"),
    ("p99", "gap_p99_s", 1000, ".1f"),
    ("worst", "gap_worst_s", 1000, ".1f"),
    ("late TTFT ms", "late_ttft_s", 1000, ".0f"),
    ("cached %", "cached", 100, ".0f"),
    ("MB", "memory_bytes", 1e-6, ".0f"),
    ("largest", "largest_bytes", 1e-6, ".0f"),
)


def print_figures(console: Console, title: str, measured: Mapping[str, Sequence[Figures]]) -> None:
    """A table for each case: a row per server with medians over the rounds, and the ratios if there are two."""
    rows = [
        (label, [_cell(getattr(typical(rounds), name), scale, form) for _, name, scale, form in _COLUMNS])
        for label, rounds in measured.items()
        if rounds
    ]
    if len(measured) == 2 and all(measured.values()):
        (ours, mine), (theirs, other) = measured.items()
        ratio = ratios(mine, other)
        rows.append((f"{ours} ÷ {theirs}", [_cell(getattr(ratio, name), 1, ".2f") for _, name, _, _ in _COLUMNS]))
    print_table(console, title, ["server", *(column[0] for column in _COLUMNS)], [[label, *row] for label, row in rows])


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def write_json(path: Path, results: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")


def _cell(value: float | None, scale: float, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value * scale, form)
