"""Replaces Jinja's filters that can turn small values into large ones: these measure a result before building it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol, cast

import jinja2
import markupsafe

from corral.adapters.templates.meter import LimitExceeded, Meter, running_meter
from corral.core.requests.typed_text import without_escapes

__all__ = ("FILTERS", "check_search", "line_count", "raise_exception", "strftime_now")

_LONGEST_SLOW_SEARCH = 100
_LONG_JOIN = 1 << 20
_LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


class Metered(Protocol):
    """The part of the environment that filters need."""

    def metered(self, iterable: Iterable[Any]) -> Iterator[Any]: ...


def check_search(meter: Meter, arguments: Iterable[object]) -> None:
    if any(isinstance(argument, str) and len(argument) > _LONGEST_SLOW_SEARCH for argument in arguments):
        raise LimitExceeded(f"it searches from the end for more than {_LONGEST_SLOW_SEARCH} characters")


def line_count(text: str) -> int:
    return 1 + sum(map(text.count, _LINE_BREAKS))


@jinja2.pass_environment
def _join(environment: Metered, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    meter = running_meter()
    pieces = (
        value
        if attribute is None
        else map(jinja2.filters.make_attrgetter(cast(jinja2.Environment, environment), attribute), value)
    )
    texts, length = [], 0
    for piece in environment.metered(pieces):
        text = meter.spelled(piece)
        length += len(text) + len(d)
        meter.text(length if length > _LONG_JOIN else 0)
        texts.append(text)
    meter.text(length)
    return d.join(texts)


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    meter = running_meter()
    text, old, new = meter.spelled(value), meter.spelled(old), meter.spelled(new)
    meter.text(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    meter = running_meter()
    text = meter.spelled(value)
    prefix = width if isinstance(width, str) else " " * min(width, 1000)
    count = line_count(text)
    meter.tick(count)
    meter.text(len(text) + len(prefix) * count)
    lines = text.splitlines() or [""]
    indented = [prefix + line if (line or blank) and (first or number) else line for number, line in enumerate(lines)]
    return "\n".join(indented) + ("\n" if text.endswith("\n") else "")


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    meter = running_meter()
    text = meter.spelled(value)
    meter.pattern(text, (*args, *kwargs.values()))
    return text % (kwargs or args)


def _escape(value: Any) -> str:
    meter = running_meter()
    text = meter.spelled(value)
    meter.text(len(text) + 5 * sum(map(text.count, "<>&\"'")))
    return str(markupsafe.escape(text))


def _safe(value: Any) -> str:
    return running_meter().spelled(value)


@jinja2.pass_environment
def _sum(environment: Metered, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    if attribute is not None:
        iterable = map(jinja2.filters.make_attrgetter(cast(jinja2.Environment, environment), attribute), iterable)
    total = start
    for item in environment.metered(iterable):
        if not (isinstance(item, int | float) and isinstance(total, int | float)):
            raise jinja2.TemplateRuntimeError("sum accepts numbers only")
        total += item
    return total


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    running_meter().repeats(precision * 1000)
    return jinja2.filters.do_round(value, precision, cast(Any, method))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own would spell ``<`` as ``\\u003c``, which no model was trained on."""
    meter = running_meter()
    weight = meter.weight(value)
    separators_chars = sum(map(len, separators)) if separators is not None else 0
    if indent is not None:
        indent = min(indent, 16)
    meter.text(weight * (1 + separators_chars + (indent or 0) * meter.depth(value)))
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return without_escapes(text) if ensure_ascii else text


def raise_exception(message: object) -> None:
    raise jinja2.TemplateRuntimeError(running_meter().spelled(message)[:1000])


def strftime_now(pattern: str) -> str:
    running_meter().pattern(pattern)
    return datetime.now().strftime(pattern)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "e": _escape,
    "escape": _escape,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "safe": _safe,
    "sum": _sum,
    "tojson": _tojson,
}
