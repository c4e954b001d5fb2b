"""Parses what stands in an action of a Go template: pipelines, commands and operands."""

from __future__ import annotations

from collections.abc import Container

from corral.core.go.quoting import quote
from corral.core.go.templates.constants import (
    BadConstant,
    Number,
    read_character,
    read_complex,
    read_number,
    unquote,
)
from corral.core.go.templates.nodes import (
    Argument,
    Boolean,
    Chain,
    Command,
    Dot,
    Field,
    FunctionName,
    Nil,
    NumberConstant,
    Pipeline,
    StringConstant,
    VariablePath,
)
from corral.core.go.templates.reading import TokenReader
from corral.core.go.templates.tokens import Kind, Lexer, TemplateToken

__all__ = ("ExpressionParser",)

_OPERANDS = frozenset({
    Kind.BOOL, Kind.CHARACTER_CONSTANT, Kind.COMPLEX, Kind.DOT, Kind.FIELD, Kind.IDENTIFIER, Kind.NUMBER, Kind.NIL,
    Kind.RAW_STRING, Kind.STRING, Kind.VARIABLE, Kind.LEFT_PARENTHESIS,
})  # fmt: skip
_DEEPEST = 100
_NUMBERS = {Kind.CHARACTER_CONSTANT: read_character, Kind.COMPLEX: read_complex, Kind.NUMBER: read_number}


class ExpressionParser(TokenReader):
    """Knows the names of all `functions`, and which variables are declared."""

    def __init__(self, source: str, lexer: Lexer, functions: Container[str]) -> None:
        super().__init__(source, lexer)
        self.functions = functions
        self.variables = ["$"]
        self._depth = 0

    def pipeline(self, context: str, end: Kind = Kind.RIGHT_DELIMITER) -> Pipeline:
        """Up to the token `end`, which is read too."""
        position = self.peek_word().position
        declared, assigns = self._declarations(context)
        commands: list[Command] = []
        while (token := self.next_word()).kind is not end:
            if token.kind not in _OPERANDS:
                self.unexpected(token, context)
            self.put_back()
            commands.append(self._command())
        if not commands:
            self.fail(f"missing value for {context}")
        for number, command in enumerate(commands[1:], 2):
            if isinstance(command.arguments[0], Boolean | Dot | Nil | NumberConstant | StringConstant):
                self.fail(f"non executable command in pipeline stage {number}")
        return Pipeline(position=position, variables=declared, assigns=assigns, commands=tuple(commands))

    def _declarations(self, context: str) -> tuple[tuple[VariablePath, ...], bool]:
        declared: list[VariablePath] = []
        while (variable := self.peek_word()).kind is Kind.VARIABLE:
            self.next()
            after = self.peek()
            following = self.peek_word()
            if following.kind in (Kind.ASSIGN, Kind.DECLARE):
                self.next_word()
                declared.append(self._declared(variable))
                return tuple(declared), following.kind is Kind.ASSIGN
            if following.kind is Kind.CHARACTER and following.text == ",":
                self.next_word()
                declared.append(self._declared(variable))
                if context == "range" and len(declared) < 2:
                    if self.peek_word().kind in (Kind.VARIABLE, Kind.RIGHT_DELIMITER, Kind.RIGHT_PARENTHESIS):
                        continue
                    self.fail("range can only initialize variables")
                self.fail(f"too many declarations in {context}")
            if after.kind is Kind.SPACE:
                self.put_back(after, variable)
            else:
                self.put_back(variable)
            break
        return tuple(declared), False

    def _declared(self, token: TemplateToken) -> VariablePath:
        self.variables.append(token.text)
        return VariablePath(position=token.position, names=tuple(token.text.split(".")))

    def _command(self) -> Command:
        position = self.peek_word().position
        arguments: list[Argument] = []
        while True:
            self.peek_word()
            operand = self._operand()
            if operand is not None:
                arguments.append(operand)
            token = self.next()
            if token.kind is Kind.SPACE:
                continue
            if token.kind in (Kind.RIGHT_DELIMITER, Kind.RIGHT_PARENTHESIS):
                self.put_back()
            elif token.kind is not Kind.PIPE:
                self.unexpected(token, "operand")
            break
        if not arguments:
            self.fail("empty command")
        return Command(position=position, arguments=tuple(arguments))

    def _operand(self) -> Argument | None:
        """None if the next token does not begin one."""
        term = self._term()
        if term is None or self.peek().kind is not Kind.FIELD:
            return term
        position = self.peek().position
        names: list[str] = []
        while self.peek().kind is Kind.FIELD:
            names.append(self.next().text[1:])
        if isinstance(term, Field):
            return Field(position=position, names=(*term.names, *names))
        if isinstance(term, VariablePath):
            return VariablePath(position=position, names=(*term.names, *names))
        if isinstance(term, Boolean | StringConstant | NumberConstant | Nil | Dot):
            self.fail(f"unexpected . after term {quote(str(term))}")
        return Chain(position=position, of=term, names=tuple(names))

    def _term(self) -> Argument | None:
        token = self.next_word()
        position, text = token.position, token.text
        match token.kind:
            case Kind.IDENTIFIER:
                if text not in self.functions:
                    self.fail(f"function {quote(text)} not defined")
                return FunctionName(position=position, name=text)
            case Kind.DOT:
                return Dot(position=position)
            case Kind.NIL:
                return Nil(position=position)
            case Kind.VARIABLE:
                if text not in self.variables:
                    self.fail(f"undefined variable {quote(text)}")
                return VariablePath(position=position, names=(text,))
            case Kind.FIELD:
                return Field(position=position, names=(text[1:],))
            case Kind.BOOL:
                return Boolean(position=position, true=text == "true")
            case Kind.CHARACTER_CONSTANT | Kind.COMPLEX | Kind.NUMBER:
                return NumberConstant(position=position, text=text, number=self._number(token))
            case Kind.LEFT_PARENTHESIS:
                return self._parenthesized()
            case Kind.STRING | Kind.RAW_STRING:
                return StringConstant(position=position, quoted=text, text=self.unquoted(token))
            case _:
                self.put_back()
                return None

    def _parenthesized(self) -> Pipeline:
        if self._depth >= _DEEPEST:
            self.fail("max expression depth exceeded")
        self._depth += 1
        try:
            return self.pipeline("parenthesized pipeline", Kind.RIGHT_PARENTHESIS)
        finally:
            self._depth -= 1

    def unquoted(self, token: TemplateToken) -> str:
        try:
            return unquote(token.text)
        except BadConstant as error:
            self.fail(error)

    def _number(self, token: TemplateToken) -> Number:
        try:
            return _NUMBERS[token.kind](token.text)
        except BadConstant as error:
            self.fail(error)
