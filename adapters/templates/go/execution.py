"""Executes the statements of a Go template: text, actions, branches, loops, calls of other templates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

from corral.adapters.templates.go.evaluation import Evaluator
from corral.adapters.templates.go.limits import LimitReached, Limits
from corral.adapters.templates.go.printing import printable, sprint, sprintf
from corral.adapters.templates.go.values import GoMap, GoPointer, GoSequence, GoSlice, Interface, is_true
from corral.core.go.quoting import quote
from corral.core.go.templates.nodes import (
    Action,
    Branch,
    Break,
    Continue,
    If,
    Node,
    Range,
    TemplateCall,
    Text,
    Tree,
    With,
)
from corral.core.requests.typed_text import TypedText

__all__ = ("execute",)

_DEEPEST = 64
_TOO_DEEP = f"exceeded maximum template depth ({_DEEPEST})"


class _Leaving(Enum):
    """Why a loop's body ends early."""

    BREAK = "break"
    CONTINUE = "continue"


def execute(tree: Tree, data: Any, limits: Limits, typed: TypedText, nodes: Sequence[Node] | None = None) -> str:
    """What a template prints, still with the marks of typed text. `nodes` is what to execute instead of its root.

    Raises `TemplateError` with Go's text, and `LimitReached`.
    """
    execution = _Execution(tree, limits, typed)
    try:
        execution.run(data, tree.root if nodes is None else nodes)
    except RecursionError as error:
        raise LimitReached("it is nested too deeply") from error
    return "".join(execution.pieces)


class _Execution(Evaluator):
    def __init__(self, tree: Tree, limits: Limits, typed: TypedText) -> None:
        super().__init__(tree, limits, typed)
        self.pieces: list[str] = []
        self._depth = 0

    def run(self, data: Any, nodes: Sequence[Node]) -> None:
        self.variables = [("$", [data])]
        self._walk(data, nodes)

    def _walk(self, dot: Any, nodes: Iterable[Node]) -> _Leaving | None:
        for node in nodes:
            if type(node) is Text:
                self._print(node.text)
                continue
            leaving = _STATEMENTS[type(node)](self, dot, node)
            if leaving is not None:
                return leaving
        return None

    def _print(self, text: str) -> None:
        self._limits.step()
        self._limits.printed(len(text))
        self.pieces.append(text)

    def _action(self, dot: Any, node: Action) -> None:
        value = self.pipeline(dot, node.pipeline)
        if not node.pipeline.variables:
            self.at(node)
            if isinstance(value, GoSequence):
                self.fail(f"can't print {node} of type {value.type}")
            self._print(value if isinstance(value, str) else sprint((printable(value),), self._limits))

    def _break(self, dot: Any, node: Node) -> _Leaving:
        return _Leaving.BREAK

    def _continue(self, dot: Any, node: Node) -> _Leaving:
        return _Leaving.CONTINUE

    def _if_or_with(self, dot: Any, node: Branch) -> _Leaving | None:
        mark = len(self.variables)
        value = self.pipeline(dot, node.pipeline)
        leaving: _Leaving | None = None
        if is_true(value):
            leaving = self._walk(value if isinstance(node, With) else dot, node.body)
        elif node.otherwise is not None:
            leaving = self._walk(dot, node.otherwise)
        del self.variables[mark:]
        return leaving

    def _range(self, dot: Any, node: Range) -> _Leaving | None:
        mark = len(self.variables)
        value = self.pipeline(dot, node.pipeline)
        rounds = self._rounds(value.to if isinstance(value, GoPointer) and value.to else value, node)
        inner = len(self.variables)
        ran = False
        for index, element in rounds:
            ran = True
            self._limits.step()
            self._set_loop_variables(node, index, element)
            leaving = self._walk(element, node.body)
            del self.variables[inner:]
            if leaving is _Leaving.BREAK:
                break
        outcome = self._walk(dot, node.otherwise) if not ran and node.otherwise is not None else None
        del self.variables[mark:]
        return outcome

    def _rounds(self, value: Any, node: Range) -> Iterable[tuple[Any, Any]]:
        """Index and element of each iteration."""
        if value is None:
            return ()
        if isinstance(value, GoSlice):
            return ((index, value.at(index)) for index in range(len(value.items)))
        if isinstance(value, GoMap):
            return ((key, Interface(item) if value.boxed else item) for key, item in value.sorted())
        if isinstance(value, GoSequence):
            # A single variable is the key.
            return value.pairs if len(node.pipeline.variables) > 1 else ((None, key) for key, _ in value.pairs)
        if isinstance(value, int) and not isinstance(value, bool):
            if len(node.pipeline.variables) > 1:
                self.fail(f"can't use {value:d} to iterate over more than one variable")
            return ((None, type(value)(number)) for number in range(value))
        return self.fail(f"range can't iterate over {sprintf('%v', (value,), self._limits)}")

    def _set_loop_variables(self, node: Range, index: Any, element: Any) -> None:
        names = node.pipeline.variables
        if not names:
            return
        if node.pipeline.assigns:
            self.assign(names[0].names[0], index if len(names) > 1 else element)
            if len(names) > 1:
                self.assign(names[1].names[0], element)
            return
        self.variables[-1][1][0] = element
        if len(names) > 1:
            self.variables[-2][1][0] = index

    def _template(self, dot: Any, node: TemplateCall) -> None:
        self.at(node)
        nodes = self._tree.templates.get(node.name)
        if nodes is None:
            self.fail(f"template {quote(node.name)} not defined")
        if self._depth >= _DEEPEST:
            self.fail(_TOO_DEEP)
        data = self.pipeline(dot, node.pipeline) if node.pipeline is not None else None
        outer, name = self.variables, self.name
        self._depth += 1
        self.variables, self.name = [("$", [data])], node.name
        self._walk(data, nodes)
        self.variables, self.name = outer, name
        self._depth -= 1


_STATEMENTS: dict[type, Callable[[_Execution, Any, Any], _Leaving | None]] = {
    Action: _Execution._action,
    Break: _Execution._break,
    Continue: _Execution._continue,
    If: _Execution._if_or_with,
    With: _Execution._if_or_with,
    Range: _Execution._range,
    TemplateCall: _Execution._template,
}
