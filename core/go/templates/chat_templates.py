"""What the tree of a chat template says: which variables it uses, and how its model writes thinking and tool calls.

As Ollama infers it, so that both find the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from corral.core.go.spaces import trim_space
from corral.core.go.templates.nodes import (
    Action,
    Argument,
    Branch,
    Field,
    If,
    Node,
    Pipeline,
    Range,
    StringConstant,
    TemplateCall,
    Text,
    Tree,
    VariablePath,
)
from corral.core.go.templates.parser import parse

__all__ = ("FUNCTIONS", "compared_texts", "parse_chat_template", "thinking_tags", "tool_call_tag", "used_variables")

FUNCTIONS = frozenset({
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print", "printf",
    "println", "slice", "urlquery", "currentDate", "json", "toTypeScriptType", "yesterdayDate",
})  # fmt: skip
"""The functions that chat templates may call: Go's own, and those of Ollama."""


def parse_chat_template(source: str) -> Tree:
    """Raises `TemplateSyntaxError`."""
    return parse(source, FUNCTIONS)


def used_variables(tree: Tree) -> frozenset[str]:
    """Every name of a variable or field, in lower case.

    Those that follow something in parentheses do not count: ``(index .X 0).Y`` uses only ``x``.
    """
    names = (
        argument.names
        for nodes in tree.templates.values()
        for pipeline in _pipelines(nodes)
        for argument in _arguments(pipeline)
        if isinstance(argument, Field | VariablePath)
    )
    return frozenset(name.lower() for several in names for name in several)


def thinking_tags(tree: Tree) -> tuple[str, str]:
    """The texts around ``.Thinking`` inside a loop over ``.Messages``, trimmed; each empty if there is none."""
    tags = ["", ""]

    def look(pipeline: Pipeline | None, around: tuple[Node, ...], loop: Range | None) -> None:
        if pipeline is None or loop is None or not _reads(loop.pipeline, "Messages"):
            return
        for argument in _arguments(pipeline):
            if isinstance(argument, Field) and argument.names[0] == "Thinking":
                for place, node in ((0, around[0]), (1, around[-1])):
                    if isinstance(node, Text):
                        tags[place] = trim_space(node.text)

    def visit(nodes: tuple[Node, ...], loop: Range | None) -> None:
        for node in nodes:
            if isinstance(node, Branch):
                inner = node if isinstance(node, Range) else loop
                look(node.pipeline, nodes, inner)
                visit(node.body, inner)
                visit(node.otherwise or (), inner)
            elif isinstance(node, Action | TemplateCall):
                look(node.pipeline, nodes, loop)

    visit(tree.root, None)
    return tags[0], tags[1]


def tool_call_tag(tree: Tree) -> str:
    """The text that begins a tool call: the first one inside ``{{ if .ToolCalls }}``, up to a brace.

    ``{`` if there is none.
    """
    branch = _tool_call_branch(tree.root)
    text = _first_text(branch.body) if branch is not None else None
    return trim_space((text or "").replace("\r\n", "\n").partition("{")[0]) or "{"


def compared_texts(tree: Tree) -> frozenset[str]:
    """All string constants; the roles that a template knows are among them."""
    return frozenset(
        argument.text
        for nodes in tree.templates.values()
        for pipeline in _pipelines(nodes)
        for argument in _arguments(pipeline)
        if isinstance(argument, StringConstant)
    )


def _pipelines(nodes: tuple[Node, ...]) -> Iterator[Pipeline]:
    for node in nodes:
        if isinstance(node, Action | Branch | TemplateCall) and node.pipeline is not None:
            yield node.pipeline
        if isinstance(node, Branch):
            yield from _pipelines(node.body)
            yield from _pipelines(node.otherwise or ())


def _arguments(pipeline: Pipeline) -> Iterator[Argument]:
    for command in pipeline.commands:
        for argument in command.arguments:
            if isinstance(argument, Pipeline):
                yield from _arguments(argument)
            else:
                yield argument


def _reads(pipeline: Pipeline, name: str) -> bool:
    return any(isinstance(argument, Field) and argument.names[0] == name for argument in _arguments(pipeline))


def _tool_call_branch(nodes: tuple[Node, ...]) -> If | None:
    for node in nodes:
        if not isinstance(node, Branch):
            continue
        if isinstance(node, If) and any(
            isinstance(argument, Field) and "ToolCalls" in argument.names
            for command in node.pipeline.commands
            for argument in command.arguments
        ):
            return node
        found = _tool_call_branch(node.body) or _tool_call_branch(node.otherwise or ())
        if found is not None:
            return found
    return None


def _first_text(nodes: tuple[Node, ...]) -> str | None:
    """The first text that is not white space, unless something is printed before it."""
    for node in nodes:
        if isinstance(node, Text):
            if trim_space(node.text):
                return node.text
        elif isinstance(node, Branch):
            return _first_text(node.body) or _first_text(node.otherwise or ())
        elif isinstance(node, Action):
            return None
    return None
