"""A Jinja environment for templates nobody vouches for: whatever one does, it ends soon and stays small.

Jinja's own sandbox keeps a template away from Python's insides. It does not keep it from looping for hours or from
building a gigabyte out of three lines, so every loop round, call and operator here is counted by a `Meter`, and
everything that could grow a text or a container is measured, before it is built where the size can be foretold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from corral.adapters.templates.meter import METER, LimitExceeded, Meter

__all__ = ("MeteredEnvironment",)

# Filters and methods that grow by a number or a table, and that no chat template has a use for.
_REFUSED_FILTERS = ("batch", "center", "filesizeformat", "pprint", "random", "slice", "urlize", "wordwrap", "xmlattr")
_REFUSED_METHODS = frozenset({"encode", "expandtabs", "format_map", "maketrans", "to_bytes", "translate"})


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """As chat templates expect it: blocks trimmed, loop controls, `raise_exception`, `strftime_now`, plain `tojson`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # else constants are computed while compiling, where nothing is counted
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        for name in _REFUSED_FILTERS:
            del self.filters[name]
        self.filters.update(join=_join, replace=_replace, indent=_indent, format=_format, round=_round, tojson=_tojson)
        self.filters = {name: _guarded(function) for name, function in self.filters.items()}
        del self.globals["lipsum"]
        self.globals.update(namespace=_Namespace, raise_exception=_raise_exception, strftime_now=_strftime_now)

    def run(self, template: jinja2.Template, variables: Mapping[str, Any], input_chars: int) -> str:
        """Render within the limits. Raises `LimitExceeded`, or whatever the template's own code raises."""
        meter = Meter(input_chars)
        token = METER.set(meter)
        try:
            pieces = []
            for piece in template.generate(variables):
                meter.text(len(piece))
                pieces.append(piece)
            return "".join(pieces)
        finally:
            METER.reset(token)

    @property
    def concat(self) -> Any:  # type: ignore[override]  # Jinja reads it as an attribute: how a macro's output is joined
        return self.joined

    # ── what compiled templates call ──────────────────────────────────────────────────────────────────────────────

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        return super()._generate(_Metering(self).visit(source), name, filename, defer_init)

    def metered(self, iterable: Iterable[Any]) -> Iterator[Any]:
        """A loop's rounds, counted."""
        meter = METER.get()
        for item in iterable:
            meter.tick()
            yield item

    def built(self, container: Any) -> Any:
        """A list, tuple or dict written out in the template; `call` weighs it on its way here."""
        return container

    def joined(self, pieces: Iterable[Any]) -> str:
        """The ``~`` operator, and what a block or macro has collected."""
        texts = [str(piece) for piece in pieces]
        METER.get().text(sum(map(len, texts)))
        return "".join(texts)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.tick()
        meter.arguments((*args, *kwargs.values()))
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, str):
            args = _foresee(meter, owner, __obj.__name__, args)
        elif isinstance(__obj, LoopContext) and args:  # a recursive loop: its rounds are no `for` of their own
            args = (__self.metered(args[0]), *args[1:])
        return meter.result(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = METER.get()
        meter.tick()
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            sized, times = (left, right) if isinstance(right, int) else (right, left)
            if isinstance(sized, str):
                meter.text(len(sized) * meter.repeats(times))
            elif isinstance(sized, list | tuple):
                meter.repeats(len(sized) * meter.repeats(times))
        elif operator == "**" and isinstance(right, int | float) and abs(right) > 64:
            raise LimitExceeded("a power above 64")
        elif operator == "%" and isinstance(left, str):
            meter.pattern(left)
        return meter.result(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        refused = isinstance(obj, str | int) and attr in _REFUSED_METHODS
        return super().is_safe_attribute(obj, attr, value) and not refused


class _Namespace(jinja2.utils.Namespace):
    """Does not print what it holds: namespaces within namespaces could hold themselves a million times over."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Metering(NodeTransformer):
    """Rewrites a parsed template so that its loops, containers and ``~`` operators pass through the environment."""

    def __init__(self, environment: MeteredEnvironment) -> None:
        self._environment = environment

    def _through(self, name: str, argument: nodes.Expr) -> nodes.Call:
        target = nodes.EnvironmentAttribute(name, lineno=argument.lineno)
        call = nodes.Call(target, [argument], [], None, None, lineno=argument.lineno)
        return cast(nodes.Call, call.set_environment(self._environment))

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = self._through("metered", cast(nodes.Expr, node.iter))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return self._through("joined", nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        self.generic_visit(node)
        return node if _constant(node.items) else self._through("built", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return node if node.ctx != "load" or _constant(node.items) else self._through("built", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        return node if _constant([pair.value for pair in node.items]) else self._through("built", node)


def _constant(items: Iterable[nodes.Node]) -> bool:
    return all(isinstance(item, nodes.Const) for item in items)


class _GenerationTag(Extension):
    """``{% generation %}…{% endgeneration %}``, which some templates wrap around answers for training. Ignored here."""

    tags = {"generation"}  # noqa: RUF012, as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # carries over Jinja's marks too: which filters want the context or the environment
    def guarded(*args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.tick()
        meter.arguments((*args, *kwargs.values()))
        return meter.result(function(*args, **kwargs))

    return guarded


def _foresee(meter: Meter, owner: str, method: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Measure what a method of a text is about to build. Answers the arguments, iterators among them read out."""
    for arg in args:
        meter.repeats(arg)
    if method == "join" and args:
        texts = [str(piece) for piece in args[0]]
        meter.text(sum(map(len, texts)) + len(owner) * len(texts))
        return (texts, *args[1:])
    if method == "replace" and len(args) > 1:
        meter.text(len(owner) + owner.count(str(args[0])) * len(str(args[1])))
    elif method == "format":
        meter.pattern(owner)
    return args


@jinja2.pass_environment
def _join(
    environment: jinja2.Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    pieces = value if attribute is None else map(jinja2.filters.make_attrgetter(environment, attribute), value)
    texts = [str(piece) for piece in pieces]
    METER.get().text(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text = str(value)
    METER.get().text(len(text) + text.count(str(old)) * len(str(new)))
    return text.replace(str(old), str(new), count)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = str(value)
    prefix = width if isinstance(width, str) else " " * min(width, 1000)
    lines = text.splitlines() or [""]
    METER.get().text(len(text) + len(prefix) * len(lines))
    indented = [prefix + line if (line or blank) and (first or number) else line for number, line in enumerate(lines)]
    return "\n".join(indented) + ("\n" if text.endswith("\n") else "")


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    METER.get().pattern(str(value))
    return str(value) % (kwargs or args)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    METER.get().repeats(precision * 1000)
    return jinja2.filters.do_round(value, precision, cast(Any, method))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own would spell ``<`` as ``\\u003c``, which no model was trained on."""
    if indent is not None:
        indent = min(indent, 16)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateRuntimeError(str(message))


def _strftime_now(pattern: str) -> str:
    METER.get().pattern(pattern)
    return datetime.now().strftime(pattern)
