"""A Jinja environment for untrusted templates: whatever they do, rendering ends soon and uses little memory.

Jinja's own sandbox keeps a template away from Python's internals. It does not prevent it from looping for hours or
building a gigabyte with three lines. Here a `Meter` therefore counts every iteration, call and operator, and measures
everything that could make a text or a container grow, in advance if the size is predictable.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sized, ValuesView
from functools import wraps
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from corral.adapters.templates.filters import FILTERS, check_search, line_count, raise_exception, strftime_now
from corral.adapters.templates.meter import METER, PLAIN, LimitExceeded, Meter, running_meter
from corral.adapters.templates.rewriting import Metering

__all__ = ("MeteredEnvironment",)

# Chat templates do not need these, and each can turn small values into large ones.
_REFUSED_FILTERS = (
    "batch", "center", "filesizeformat", "forceescape", "groupby", "pprint", "random", "slice", "striptags", "truncate",
    "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr",
)  # fmt: skip
_REFUSED_METHODS = frozenset({"encode", "expandtabs", "fromkeys", "maketrans", "to_bytes", "translate"})
# Filters that turn any value into text, and those that read all of a value before they return.
_OF_TEXT = frozenset({"capitalize", "lower", "string", "title", "trim", "upper"})
_OF_WHOLE = frozenset({"list", "max", "min", "sort", "unique"})
_SORTING = frozenset({"dictsort", "sort"})
_COMPARING_TESTS = frozenset({
    "!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan", "lower", "lt",
    "ne", "upper",
})  # fmt: skip
_PLACE_OF_ATTRIBUTE = {
    "join": 1,
    "max": 1,
    "min": 1,
    "rejectattr": 0,
    "selectattr": 0,
    "sort": 2,
    "sum": 0,
    "unique": 1,
}
# Searching from the end and stripping given characters compare each position with the whole argument.
_SLOW_SEARCHES = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """What chat templates expect: trimmed blocks, loop controls, `raise_exception`, `strftime_now`, plain `tojson`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # otherwise constants are computed during compilation, where nothing is counted
            finalize=_finalize,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        for name in _REFUSED_FILTERS:
            del self.filters[name]
        self.filters.update(FILTERS)
        self.filters = {name: self._guarded(name, function) for name, function in self.filters.items()}
        self.tests.update({name: _compared(cast(Callable[..., bool], self.tests[name])) for name in _COMPARING_TESTS})
        del self.globals["lipsum"]
        self.globals.update(namespace=_Namespace, raise_exception=raise_exception, strftime_now=strftime_now)

    def run(self, template: jinja2.Template, variables: Mapping[str, Any], input_chars: int, parts: int = 0) -> str:
        """Render within the limits. Raises `LimitExceeded`, or whatever the template's own code raises.

        `parts` is the size of the template.
        """
        meter = Meter(input_chars, parts)
        token = METER.set(meter)
        try:
            pieces = []
            for piece in template.generate(variables):
                meter.printed(len(piece))
                pieces.append(piece)
            return "".join(pieces)
        finally:
            METER.reset(token)

    @property
    def concat(self) -> Any:  # type: ignore[override]  # an attribute of Jinja's, with which macros join their output
        return self.joined

    # ── Called by compiled templates ──────────────────────────────────────────────────────────────────────────────

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        return super()._generate(Metering(self).visit(source), name, filename, defer_init)

    def metered(self, iterable: Iterable[Any]) -> Iterator[Any]:
        """Counts the iterations of a loop."""
        meter = running_meter()
        for item in iterable:
            meter.tick()
            yield item

    def compared(self, value: Any) -> Any:
        """The right side of a comparison, counted before it is compared."""
        running_meter().compared(value)
        return value

    def built(self, container: Any) -> Any:
        """A list, tuple or dict literal in the template. `call` has weighed it."""
        return container

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """``value[start:stop:step]``; `call` measures the result."""
        return value[start:stop:step]

    def joined(self, pieces: Iterable[Any]) -> str:
        """The ``~`` operator, and what a block or macro has collected."""
        meter = running_meter()
        texts = [meter.spelled(piece) for piece in pieces]
        meter.text(sum(map(len, texts)))
        return str(meter.result("".join(texts)))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = running_meter()
        meter.tick()
        meter.arguments((*args, *kwargs.values()))
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, str):
            args = __self._foreseen(meter, owner, __obj.__name__, args, kwargs)
        elif isinstance(__obj, LoopContext) and args:  # a recursive loop: no `for` counts its iterations
            args = (__self.metered(args[0]), *args[1:])
        return __self._measured(meter, super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = running_meter()
        meter.tick()
        if operator == "+" and type(left) is str and type(right) is str:  # most of what templates do
            meter.text(len(left) + len(right))
            return meter.result(left + right)
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            sized, times = (left, right) if isinstance(right, int) else (right, left)
            if isinstance(sized, str):
                meter.text(len(sized) * meter.repeats(times))
            elif isinstance(sized, list | tuple):
                meter.repeats(len(sized) * meter.repeats(times))
        elif operator == "**" and isinstance(right, int | float) and abs(right) > 64:
            raise LimitExceeded("a power above 64")
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            meter.text(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            meter.pattern(left, right if isinstance(right, tuple) else (right,))
        return self._measured(meter, super().call_binop(context, operator, left, right))

    def _measured(self, meter: Meter, value: Any) -> Any:
        """The result of a call. If it is lazy, reading it is counted."""
        if type(value) in PLAIN:
            return meter.result(value)
        if isinstance(value, KeysView | ValuesView | ItemsView):
            value = list(value)
        elif isinstance(value, Iterator) and not isinstance(value, LoopContext | jinja2.utils.Cycler):
            return self.metered(value)
        return meter.result(value)

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        passed = jinja2.utils._PassArg.from_obj(function)  # not None if its first argument is a context or environment
        place = 0 if passed is None else 1

        @wraps(function)  # copies Jinja's marks too
        def guarded(*args: Any, **kwargs: Any) -> Any:
            meter = running_meter()
            meter.tick()
            meter.arguments((*args[place:], *kwargs.values()))
            if len(args) > place:
                value = self._taken(meter, name, args[place])
                args = (*args[:place], value, *args[place + 1 :])
            rest = args[place + 1 :]
            meter.path(kwargs.get("attribute"))
            if name in _PLACE_OF_ATTRIBUTE:
                for attribute in rest[_PLACE_OF_ATTRIBUTE[name] :][:1]:
                    meter.path(attribute)
            if name == "trim":
                check_search(meter, (*args[place + 1 :], *kwargs.values()))
            return self._measured(meter, function(*args, **kwargs))

        return guarded

    def _taken(self, meter: Meter, name: str, value: Any) -> Any:
        """The value that a filter is applied to, measured and in the form that it needs."""
        if name in _OF_TEXT:
            value = meter.spelled(value)
            if name == "title":  # it makes a list of words
                meter.tick(len(value))
        elif name in _OF_WHOLE:
            value = list(self.metered(value))
            meter.weight(value)
        if name in _SORTING and isinstance(value, Sized):
            meter.comparisons(len(value))
        return value

    def _foreseen(
        self, meter: Meter, owner: str, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Measure what a method of a text is going to build. Returns the arguments, with iterators read."""
        meter.read(owner)
        for arg in args:
            meter.repeats(arg)
        if method in _SLOW_SEARCHES:
            check_search(meter, (*args, *kwargs.values()))
        if method == "join" and args:
            texts = list(self.metered(args[0]))
            meter.text(sum(len(text) for text in texts if isinstance(text, str)) + len(owner) * len(texts))
            return (texts, *args[1:])
        if method == "replace" and len(args) > 1:
            meter.text(len(owner) + owner.count(str(args[0])) * len(str(args[1])))
        elif method in ("format", "format_map"):  # Jinja's sandbox returns both before it checks whether they are safe
            meter.pattern(owner, (*args, *kwargs.values()))
        elif method in ("split", "rsplit"):
            separator = args[0] if args else kwargs.get("sep")
            meter.tick(owner.count(separator) if isinstance(separator, str) and separator else len(owner) // 2)
        elif method == "splitlines":
            meter.tick(line_count(owner))
        return args

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        refused = isinstance(obj, str | int) and attr in _REFUSED_METHODS
        return super().is_safe_attribute(obj, attr, value) and not refused


class _Namespace(jinja2.utils.Namespace):
    """Does not print its contents, since nested namespaces could contain each other a million times."""

    def __repr__(self) -> str:
        return "<namespace>"


def _compared(test: Callable[..., bool]) -> Callable[..., bool]:
    @wraps(test)
    def compared(*values: Any) -> bool:
        running_meter().compared(values[-1])  # `in` searches the second; the others read no more than either
        return test(*values)

    return compared


class _GenerationTag(Extension):
    """``{% generation %}…{% endgeneration %}``, which some templates wrap around answers for training. Ignored here."""

    tags = {"generation"}  # noqa: RUF012, as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _finalize(value: Any) -> Any:
    """A printed value as text."""
    meter = METER.get()
    return value if meter is None else meter.spelled(value)
