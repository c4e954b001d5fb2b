"""Evaluates pipelines of Go templates: commands, fields, variables and calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from corral.adapters.templates.go.functions import FUNCTIONS, Calling, TemplateFunction
from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.values import (
    GoMap,
    GoPointer,
    GoStruct,
    Interface,
    TemplateFailure,
    is_true,
    type_name,
    unboxed,
)
from corral.core.go.quoting import quote
from corral.core.go.templates.nodes import (
    Argument,
    Boolean,
    Chain,
    Command,
    Dot,
    Field,
    FunctionName,
    Nil,
    Node,
    NumberConstant,
    Pipeline,
    StringConstant,
    Tree,
    VariablePath,
)
from corral.core.requests.typed_text import TypedText

__all__ = ("Evaluator", "TemplateError")

_MISSING: Final = object()
"""No value from the stage before."""


class TemplateError(Exception):
    """A template failed; the text is Go's."""


class Evaluator:
    """Evaluates what stands in actions, for one rendering. `name` is that of the template that is being executed.

    `variables` is a stack of names, each with a list of one value.
    """

    def __init__(self, tree: Tree, limits: Limits, typed: TypedText) -> None:
        self._tree = tree
        self._limits = limits
        self._calling = Calling(limits, typed)
        self._node: Node | None = None
        self.name = ""
        self.variables: list[tuple[str, list[Any]]] = []

    def fail(self, complaint: str) -> NoReturn:
        """Raises `TemplateError` with the place of the node that is being evaluated."""
        if self._node is None:
            raise TemplateError(f"template: {self.name}: {complaint}")
        place = self._tree.place(self._node.position)
        raise TemplateError(f"template: :{place}: executing {quote(self.name)} at <{self._node}>: {complaint}")

    def at(self, node: Node) -> None:
        """Complaints name this node from now on."""
        self._node = node

    def pipeline(self, dot: Any, pipeline: Pipeline) -> Any:
        """Its value, never an `Interface`. Variables that it declares are left on the stack."""
        self._node = pipeline
        self._limits.step()
        value: Any = _MISSING
        for command in pipeline.commands:
            value = unboxed(self._command(dot, command, value))
        for variable in pipeline.variables:
            if pipeline.assigns:
                self.assign(variable.names[0], value)
            else:
                self.variables.append((variable.names[0], [value]))
        return value

    def assign(self, name: str, value: Any) -> None:
        self._find(name)[0] = value

    def _find(self, name: str) -> list[Any]:
        found: list[Any] | None = next((cell for declared, cell in reversed(self.variables) if declared == name), None)
        if found is None:
            self.fail(f"undefined variable: {name}")
        return found

    def _command(self, dot: Any, command: Command, final: Any) -> Any:
        first = command.arguments[0]
        evaluate = _COMMANDS.get(type(first))
        if evaluate is not None:
            return evaluate(self, dot, first, command.arguments, final)
        if isinstance(first, FunctionName):
            return self._function(dot, first, command, command.arguments[1:], final)
        if isinstance(first, Pipeline):
            self._refuse_arguments(command.arguments, final)
            return self.pipeline(dot, first)
        self._node = first
        self._refuse_arguments(command.arguments, final)
        if isinstance(first, Nil):
            self.fail("nil is not a command")
        return self._constant(dot, first)

    def _refuse_arguments(self, arguments: Sequence[Argument], final: Any) -> None:
        if len(arguments) > 1 or final is not _MISSING:
            self.fail(f"can't give argument to non-function {arguments[0]}")

    def _constant(self, dot: Any, node: Argument) -> Any:
        match node:
            case Dot():
                return dot
            case Boolean():
                return node.true
            case StringConstant():
                return node.text
            case NumberConstant():
                return self._number(node)
        return self.fail(f"can't evaluate command {quote(str(node))}")

    def _number(self, node: NumberConstant) -> Any:
        self._node = node
        number, text = node.number, node.text
        if number.whole is not None:
            return number.whole
        is_integer = text[0] == "'" or (text[:2].lower() == "0x" and "p" not in text.lower() and len(text) > 2)
        if number.real is not None and not is_integer and any(character in text for character in ".eEpP"):
            return number.real
        if number.integer is None:
            self.fail(f"{text} overflows int")
        return number.integer

    # ── fields ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _field_command(self, dot: Any, node: Field, arguments: Sequence[Argument], final: Any) -> Any:
        self._node = node
        return self._fields(dot, node.names, arguments, final)

    def _variable_command(self, dot: Any, node: VariablePath, arguments: Sequence[Argument], final: Any) -> Any:
        self._node = node
        value = self._find(node.names[0])[0]
        if len(node.names) > 1:
            return self._fields(value, node.names[1:], arguments, final)
        if arguments:
            self._refuse_arguments(arguments, final)
        return value

    def _chain_command(self, dot: Any, node: Chain, arguments: Sequence[Argument], final: Any) -> Any:
        self._node = node
        if isinstance(node.of, Nil):
            self.fail(f"indirection through explicit nil in {node}")
        self._node = node.of
        return self._fields(self._argument_value(dot, node.of), node.names, arguments, final)

    def _fields(self, value: Any, names: Sequence[str], arguments: Sequence[Argument], final: Any) -> Any:
        for name in names[:-1]:
            value = self._field(value, name, 0, _MISSING)
        return self._field(value, names[-1], max(len(arguments) - 1, 0), final)

    def _field(self, receiver: Any, name: str, arguments: int, final: Any) -> Any:
        """A field of a struct, an entry of a map, or the result of a method."""
        if receiver is None:
            return None
        self._limits.step()
        value = unboxed(receiver)
        if value is None:
            self.fail(f"nil pointer evaluating {type_name(receiver)}.{name}")
        pointed = value.to if isinstance(value, GoPointer) else value
        method = _method(value if pointed is None else pointed, name)
        if method is not None:
            given = arguments + (final is not _MISSING)
            if given:
                self.fail(f"wrong number of args for {name}: want 0 got {given}")
            return method(pointed)
        has_arguments = arguments > 0 or final is not _MISSING
        if isinstance(pointed, GoStruct) and name in pointed.fields:
            if has_arguments:
                self.fail(f"{name} has arguments but cannot be invoked as function")
            field = pointed.fields[name]
            return Interface(field) if name in pointed.boxed else field
        if isinstance(pointed, GoMap):
            if has_arguments:
                self.fail(f"{name} is not a method but has arguments")
            return pointed.get(name)
        return self.fail(f"can't evaluate field {name} in type {type_name(receiver)}")

    # ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _function(self, dot: Any, node: FunctionName, where: Node, arguments: Sequence[Argument], final: Any) -> Any:
        self._node = node
        self._limits.step()
        function = FUNCTIONS[node.name]
        count = len(arguments) + (final is not _MISSING)
        if function.most is None and count < function.least:
            self.fail(f"wrong number of args for {node.name}: want at least {function.least} got {len(arguments)}")
        if function.most is not None and count != function.most:
            self.fail(f"wrong number of args for {node.name}: want {function.most} got {count}")
        if node.name in ("and", "or"):
            return self._logic(dot, node.name, arguments, final)
        values = [self._argument(dot, function, place, argument) for place, argument in enumerate(arguments)]
        if final is not _MISSING:
            values.append(self._checked(function, len(values), final))
        if node.name == "call":
            values.insert(0, str(arguments[0]) if arguments else _described(final))
        try:
            return function.call(self._calling, values)
        except TemplateFailure as failure:
            self._node = where
            self.fail(f"error calling {node.name}: {failure}")

    def _logic(self, dot: Any, name: str, arguments: Sequence[Argument], final: Any) -> Any:
        value: Any = None
        for argument in arguments:
            value = self._argument_value(dot, argument)
            if is_true(value) == (name == "or"):
                return value
        return value if final is _MISSING else final

    def _argument(self, dot: Any, function: TemplateFunction, place: int, node: Argument) -> Any:
        if place < function.texts:
            self._node = node
            if isinstance(node, Nil):
                self.fail("cannot assign nil to string")
            if isinstance(node, Boolean | NumberConstant):
                self.fail(f"expected string; found {node}")
        return self._checked(function, place, self._argument_value(dot, node))

    def _checked(self, function: TemplateFunction, place: int, value: Any) -> Any:
        """The value as an argument of the function. Fails if it is no string where one is needed."""
        if place < function.texts:
            text = unboxed(value)
            if value is None:
                self.fail("invalid value; expected string")
            if not isinstance(text, str):
                shown = type_name(value) if text is None else type_name(text)
                self.fail(f"wrong type for value; expected string; got {shown}")
            return text
        return value if function.raw else unboxed(value)

    def _argument_value(self, dot: Any, node: Argument) -> Any:
        self._limits.step()
        self._node = node
        evaluate = _COMMANDS.get(type(node))
        if evaluate is not None:
            return evaluate(self, dot, node, (), _MISSING)
        if isinstance(node, Pipeline):
            return self.pipeline(dot, node)
        if isinstance(node, FunctionName):
            return self._function(dot, node, node, (), _MISSING)
        return None if isinstance(node, Nil) else self._constant(dot, node)


_COMMANDS: dict[type, Callable[[Evaluator, Any, Any, Sequence[Argument], Any], Any]] = {
    Field: Evaluator._field_command,
    VariablePath: Evaluator._variable_command,
    Chain: Evaluator._chain_command,
}


def _method(value: Any, name: str) -> Callable[[Any], Any] | None:
    if name == "String":
        as_text: Callable[[Any], Any] | None = getattr(value, "as_text", None)
        return as_text
    return value.methods.get(name) if isinstance(value, GoStruct | GoPointer) else None


def _described(value: Any) -> str:
    """As Go's ``reflect.Value.String``."""
    return value if isinstance(value, str) else f"<{type_name(value)} Value>"
