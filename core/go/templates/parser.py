"""Parses Go templates: text, actions, and the statements that enclose others."""

from __future__ import annotations

from collections.abc import Container

from corral.core.go.quoting import quote
from corral.core.go.spaces import trim_space
from corral.core.go.templates.expressions import ExpressionParser
from corral.core.go.templates.nodes import (
    Action,
    Branch,
    Break,
    Continue,
    If,
    Node,
    Pipeline,
    Range,
    TemplateCall,
    Text,
    Tree,
    With,
)
from corral.core.go.templates.reading import TemplateSyntaxError
from corral.core.go.templates.tokens import Kind, Lexer, TemplateToken

__all__ = ("TemplateSyntaxError", "parse")

_DEEPEST = 60
_BRANCHES: dict[Kind, type[Branch]] = {Kind.IF: If, Kind.RANGE: Range, Kind.WITH: With}


def parse(source: str, functions: Container[str]) -> Tree:
    """The tree of a template. `functions` are the names of those that it may call.

    Raises `TemplateSyntaxError` with Go's text, and for actions nested too deeply.
    """
    templates: dict[str, tuple[Node, ...]] = {}
    parser = _Parser(source, Lexer(source), functions, templates)
    parser.add("", parser.root())
    return Tree(source=source, templates=templates)


class _End(Node, frozen=True, kw_only=True):
    """``{{ end }}`` or ``{{ else }}``; no tree contains it."""

    word: str


class _Parser(ExpressionParser):
    """Parses one template; each that it defines is parsed by another one, which reads the same tokens."""

    def __init__(
        self, source: str, lexer: Lexer, functions: Container[str], templates: dict[str, tuple[Node, ...]]
    ) -> None:
        super().__init__(source, lexer, functions)
        self.templates = templates
        self.nesting = 0
        self._ranges = 0

    def root(self) -> tuple[Node, ...]:
        """The whole template, up to the end of the text."""
        nodes: list[Node] = []
        while (token := self.peek()).kind is not Kind.END_OF_TEXT:
            if token.kind is Kind.LEFT_DELIMITER:
                delimiter = self.next()
                if self.next_word().kind is Kind.DEFINE:
                    self._inner()._define()
                    continue
                self.put_back(delimiter)
            node = self._text_or_action()
            if isinstance(node, _End):
                self.fail(f"unexpected {{{{{node.word}}}}}")
            nodes.append(node)
        return tuple(nodes)

    def add(self, name: str, nodes: tuple[Node, ...]) -> None:
        """Remember a template. One that consists of white space does not replace another."""
        if _is_empty(self.templates.get(name, ())):
            self.templates[name] = nodes
        elif not _is_empty(nodes):
            self.fail(f"template: multiple definition of template {quote(name)}")

    def _inner(self) -> _Parser:
        inner = _Parser(self.source, self.lexer, self.functions, self.templates)
        inner.nesting = self.nesting
        return inner

    def _define(self) -> None:
        context = "define clause"
        name = self.unquoted(self.expect(Kind.STRING, Kind.RAW_STRING, context=context))
        self.expect(Kind.RIGHT_DELIMITER, context=context)
        self._rest(name, context)

    def _rest(self, name: str, context: str) -> None:
        """The body of a template that is defined here."""
        nodes, end = self._body()
        if end.word != "end":
            self.fail(f"unexpected {{{{{end.word}}}}} in {context}")
        self.add(name, nodes)

    def _body(self) -> tuple[tuple[Node, ...], _End]:
        nodes: list[Node] = []
        self.nesting += 1
        if self.nesting > _DEEPEST:
            self.fail(f"actions are nested more than {_DEEPEST} deep")
        while self.peek_word().kind is not Kind.END_OF_TEXT:
            node = self._text_or_action()
            if isinstance(node, _End):
                self.nesting -= 1
                return tuple(nodes), node
            nodes.append(node)
        return self.fail("unexpected EOF")

    def _text_or_action(self) -> Node:
        token = self.next_word()
        if token.kind is Kind.TEXT:
            return Text(position=token.position, text=token.text)
        if token.kind is not Kind.LEFT_DELIMITER:
            self.unexpected(token, "input")
        self.action_start = token.position
        node = self._action()
        self.action_start = None
        return node

    def _action(self) -> Node:
        token = self.next_word()
        match token.kind:
            case Kind.BLOCK:
                return self._block()
            case Kind.BREAK | Kind.CONTINUE:
                return self._leave_loop(token)
            case Kind.ELSE:
                following = self.peek_word()
                if following.kind not in (Kind.IF, Kind.WITH):
                    following = self.expect(Kind.RIGHT_DELIMITER, context="else")
                return _End(position=following.position, word="else")
            case Kind.END:
                return _End(position=self.expect(Kind.RIGHT_DELIMITER, context="end").position, word="end")
            case Kind.IF | Kind.RANGE | Kind.WITH:
                return self._branch(token.kind)
            case Kind.TEMPLATE:
                return self._template_call()
            case _:
                self.put_back()
                position = self.peek().position
                return Action(position=position, pipeline=self.pipeline("command"))

    def _leave_loop(self, token: TemplateToken) -> Node:
        written = f"{{{{{token.text}}}}}"
        if (after := self.next_word()).kind is not Kind.RIGHT_DELIMITER:
            self.unexpected(after, written)
        if self._ranges == 0:
            self.fail(f"{written} outside {{{{range}}}}")
        return (Break if token.kind is Kind.BREAK else Continue)(position=token.position)

    def _branch(self, kind: Kind) -> Branch:
        declared = len(self.variables)
        pipeline = self.pipeline(kind.value)
        self._ranges += kind is Kind.RANGE
        body, end = self._body()
        self._ranges -= kind is Kind.RANGE
        otherwise: tuple[Node, ...] | None = None
        if end.word == "else":
            if kind is not Kind.RANGE and self.peek().kind is kind:  # `else if` needs no `end` of its own
                self.next()
                otherwise = (self._else_branch(kind),)
            else:
                otherwise, end = self._body()
                if end.word != "end":
                    self.fail(f"expected end; found {{{{{end.word}}}}}")
        del self.variables[declared:]
        return _BRANCHES[kind](position=pipeline.position, pipeline=pipeline, body=body, otherwise=otherwise)

    def _else_branch(self, kind: Kind) -> Branch:
        self.nesting += 1
        try:
            return self._branch(kind)
        finally:
            self.nesting -= 1

    def _block(self) -> TemplateCall:
        context = "block clause"
        token = self.next_word()
        name = self._template_name(token, context)
        pipeline = self.pipeline(context)
        self._inner()._rest(name, context)
        return TemplateCall(position=token.position, name=name, pipeline=pipeline)

    def _template_call(self) -> TemplateCall:
        context = "template clause"
        token = self.next_word()
        name = self._template_name(token, context)
        pipeline: Pipeline | None = None
        if self.next_word().kind is not Kind.RIGHT_DELIMITER:
            self.put_back()
            pipeline = self.pipeline(context)
        return TemplateCall(position=token.position, name=name, pipeline=pipeline)

    def _template_name(self, token: TemplateToken, context: str) -> str:
        if token.kind not in (Kind.STRING, Kind.RAW_STRING):
            self.unexpected(token, context)
        return self.unquoted(token)


def _is_empty(nodes: tuple[Node, ...]) -> bool:
    return all(isinstance(node, Text) and not trim_space(node.text) for node in nodes)
