"""Prints the command line's output: tables, sizes and times in Ollama's format, and JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from corral.core.errors import CorralError
from corral.core.models.model import StoredModel
from corral.core.wording.printable import one_line, printable

__all__ = (
    "PADDING",
    "echo",
    "echo_content",
    "epoch_of",
    "fault_text",
    "human_bytes",
    "human_duration",
    "human_time",
    "iso_time",
    "plain",
    "print_fault",
    "print_json",
    "print_record",
    "print_table",
)

PADDING = 4
"""Spaces between columns."""

_SIZES = (("B", 1), ("KB", 1000), ("MB", 1000**2), ("GB", 1000**3), ("TB", 1000**4))
_DAY_S = 86400


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Prints text for people. Control characters are always shown as escapes."""
    click.echo(printable(text), err=err, nl=nl)


def echo_content(text: str, *, nl: bool = True) -> None:
    """Prints a model's content, such as its template: like `echo` to a terminal, unchanged to a file or pipe."""
    if sys.stdout.isatty():
        echo(text, nl=nl)
    else:
        sys.stdout.write(f"{text}\n" if nl else text)  # click would strip escapes
        sys.stdout.flush()


def fault_text(fault: CorralError) -> str:
    """The error and, on the next line, its remedy."""
    return f"Error: {fault.message}\n" + (f"{fault.remedy}\n" if fault.remedy else "")


def print_fault(fault: CorralError) -> None:
    """Prints the error and its remedy on standard error."""
    echo(fault_text(fault), err=True, nl=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns without borders, four spaces apart. Each cell is shown on one line."""
    lines = [[one_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) + PADDING for column in range(len(header))]
    for line in lines:
        echo("".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """Prints one indented JSON document."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:  # from a file name that is not UTF-8, which JSON cannot represent
        encoded = msgspec.json.encode(_encodable(msgspec.to_builtins(value)))
    echo(msgspec.json.format(encoded, indent=2).decode())


def print_record(record: StoredModel) -> None:
    """Prints a model that a command has just created, as a JSON object."""
    shown = ("digest", "format", "quantization", "size_bytes")
    remote = record.remote
    files = [plain(file) for file in record.files]
    print_json(
        {"name": record.name.short}
        | {field: getattr(record, field) for field in shown}
        | {"remote_host": remote.host if remote else None, "remote_model": remote.model if remote else None}
        | {"modified_at": iso_time(record.modified_at), "files": files}
    )


def plain(value: msgspec.Struct) -> dict[str, object]:
    """All fields, for `print_json`: including those with default values, and without the tag."""
    return {field: _plain_item(getattr(value, field)) for field in value.__struct_fields__}


def _plain_item(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return plain(value)
    return [_plain_item(item) for item in value] if isinstance(value, tuple) else value


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value


def human_bytes(size_bytes: int) -> str:
    """A size in powers of 1000, such as ``98 MB`` or ``4.7 GB``."""
    unit, factor = next((row for row in reversed(_SIZES) if size_bytes >= row[1]), _SIZES[0])
    amount = size_bytes / factor
    return f"{int(amount)} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"


def human_time(epoch_s: float, now_s: float | None = None) -> str:
    """A time relative to now, such as ``2 weeks ago`` or ``4 minutes from now``."""
    difference_s = (time.time() if now_s is None else now_s) - epoch_s
    return f"{_span(abs(difference_s))} {'ago' if difference_s >= 0 else 'from now'}"


def _span(seconds: float) -> str:
    whole = int(seconds)
    minutes, hours = whole // 60, round(seconds / 3600)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return f"{whole} second{'s' if whole != 1 else ''}"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for unit, days in (("day", 1), ("week", 7), ("month", 30)):
        following = {"day": 14, "week": 60, "month": 730}[unit]
        if whole < following * _DAY_S:
            return f"{whole // (days * _DAY_S)} {unit}s"
    return f"{whole // (365 * _DAY_S)} years"


def human_duration(duration_ns: int) -> str:
    """A duration in Go's format, rounded for people: ``1.52s``, ``310ms``, ``293.9µs``, ``2m3.4s``."""
    for unit, unit_ns, most in (("ns", 1, 1000), ("µs", 1e3, 1000), ("ms", 1e6, 1000), ("s", 1e9, 60)):
        shown = f"{duration_ns / unit_ns:.4g}"
        if duration_ns and float(shown) < most:
            return shown + unit
    if not duration_ns:
        return "0s"
    minutes, tenths = divmod(round(duration_ns / 1e8), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}h' if hours else ''}{minutes}m{tenths / 10:g}s"


def iso_time(epoch_s: float) -> str:
    """The time in RFC 3339 format, in UTC."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")


def epoch_of(timestamp: str) -> float:
    """The seconds since 1970 of a time in RFC 3339 format, to the microsecond."""
    return datetime.fromisoformat(timestamp).timestamp()
