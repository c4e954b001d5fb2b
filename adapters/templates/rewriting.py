"""Rewrites a parsed template so that what costs time or memory passes through the environment, which counts it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

__all__ = ("Metering",)


class Metering(NodeTransformer):
    """Rewrites loops, containers, slices, comparisons and ``~`` operators."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self._environment = environment

    def _through(self, name: str, *arguments: nodes.Expr) -> nodes.Call:
        target = nodes.EnvironmentAttribute(name, lineno=arguments[0].lineno)
        call = nodes.Call(target, list(arguments), [], None, None, lineno=arguments[0].lineno)
        return cast(nodes.Call, call.set_environment(self._environment))

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = self._through("metered", cast(nodes.Expr, node.iter))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return self._through("joined", nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        nothing = nodes.Const(None, lineno=node.lineno)
        ends = [end or nothing for end in (node.arg.start, node.arg.stop, node.arg.step)]
        return self._through("sliced", node.node, *ends)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        left: nodes.Expr = node.expr
        for operand in node.ops:
            right = operand.expr
            searched = operand.op in ("in", "notin")
            if not isinstance(right, nodes.Const) and (searched or not isinstance(left, nodes.Const)):
                operand.expr = self._through("compared", right)
            left = right
        return node

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier) -> nodes.Node:
        raise jinja2.TemplateSyntaxError("chat templates cannot use autoescape", node.lineno)

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
