"""The nodes of a parsed Go template; ``str`` writes one as Go's error messages do."""

from __future__ import annotations

from corral.core.go.quoting import quote
from corral.core.go.templates.constants import Number
from corral.core.values import Value

__all__ = (
    "Action",
    "Argument",
    "Boolean",
    "Branch",
    "Break",
    "Chain",
    "Command",
    "Continue",
    "Dot",
    "Field",
    "FunctionName",
    "If",
    "Nil",
    "Node",
    "NumberConstant",
    "Pipeline",
    "Range",
    "StringConstant",
    "TemplateCall",
    "Text",
    "Tree",
    "VariablePath",
    "With",
)


class Node(Value, frozen=True, kw_only=True):
    """Open base of all nodes. `position` is where it begins in the template."""

    position: int


class Text(Node, frozen=True, kw_only=True):
    """Text outside of actions."""

    text: str


class Argument(Node, frozen=True, kw_only=True):
    """Open base of what a command consists of."""


class Dot(Argument, frozen=True, kw_only=True):
    def __str__(self) -> str:
        return "."


class Nil(Argument, frozen=True, kw_only=True):
    def __str__(self) -> str:
        return "nil"


class Boolean(Argument, frozen=True, kw_only=True):
    true: bool

    def __str__(self) -> str:
        return "true" if self.true else "false"


class NumberConstant(Argument, frozen=True, kw_only=True):
    text: str
    number: Number

    def __str__(self) -> str:
        return self.text


class StringConstant(Argument, frozen=True, kw_only=True):
    quoted: str
    text: str

    def __str__(self) -> str:
        return self.quoted


class FunctionName(Argument, frozen=True, kw_only=True):
    """The name of a function."""

    name: str

    def __str__(self) -> str:
        return self.name


class Field(Argument, frozen=True, kw_only=True):
    """``.A.B``"""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join([f".{name}" for name in self.names])


class VariablePath(Argument, frozen=True, kw_only=True):
    """``$x.A.B``; the first name is that of the variable."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.names)


class Chain(Argument, frozen=True, kw_only=True):
    """Fields of something else: ``(index .X 0).A``."""

    of: Argument
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join([_in_command(self.of), *(f".{name}" for name in self.names)])


class Command(Node, frozen=True, kw_only=True):
    """One stage of a pipeline."""

    arguments: tuple[Argument, ...]

    def __str__(self) -> str:
        return " ".join(map(_in_command, self.arguments))


class Pipeline(Argument, frozen=True, kw_only=True):
    """Commands, and the variables that their value is given to. `assigns`: they exist already."""

    variables: tuple[VariablePath, ...] = ()
    assigns: bool = False
    commands: tuple[Command, ...] = ()

    def __str__(self) -> str:
        commands = " | ".join(map(str, self.commands))
        if not self.variables:
            return commands
        return f"{', '.join(map(str, self.variables))} {'=' if self.assigns else ':='} {commands}"


class Action(Node, frozen=True, kw_only=True):
    """``{{ pipeline }}``"""

    pipeline: Pipeline

    def __str__(self) -> str:
        return f"{{{{{self.pipeline}}}}}"


class Break(Node, frozen=True, kw_only=True):
    """``{{ break }}``"""


class Continue(Node, frozen=True, kw_only=True):
    """``{{ continue }}``"""


class Branch(Node, frozen=True, kw_only=True):
    """Open base of what has a body and perhaps an ``{{ else }}`` (None if not)."""

    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...] | None


class If(Branch, frozen=True, kw_only=True):
    pass


class With(Branch, frozen=True, kw_only=True):
    pass


class Range(Branch, frozen=True, kw_only=True):
    pass


class TemplateCall(Node, frozen=True, kw_only=True):
    """``{{ template "name" pipeline }}``, also for a ``{{ block }}``."""

    name: str
    pipeline: Pipeline | None

    def __str__(self) -> str:
        return f"{{{{template {quote(self.name)}{f' {self.pipeline}' if self.pipeline else ''}}}}}"


class Tree(Value, frozen=True, kw_only=True):
    """A template, and the templates that it defines, by name; the name of the first one is empty."""

    source: str
    templates: dict[str, tuple[Node, ...]]

    @property
    def root(self) -> tuple[Node, ...]:
        return self.templates[""]

    def place(self, position: int) -> str:
        """``line:column`` of a position. Columns count bytes from 0, as Go's do."""
        begins = self.source.rfind("\n", 0, position) + 1
        column = len(self.source[begins:position].encode(errors="replace"))
        return f"{self.source.count(chr(10), 0, position) + 1}:{column}"


def _in_command(argument: Argument) -> str:
    return f"({argument})" if isinstance(argument, Pipeline) else str(argument)
