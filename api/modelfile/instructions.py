"""What a Modelfile says: its instructions, in order."""

from __future__ import annotations

from typing import Literal

from corral.core.errors import InvalidRequest
from corral.core.values import Value

__all__ = ("INSTRUCTIONS", "ROLES", "Instruction", "InvalidModelfile", "Modelfile")

Keyword = Literal[
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
    "requires",
]  # fmt: skip

INSTRUCTIONS: tuple[Keyword, ...] = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
    "requires",
)  # fmt: skip
"""Every keyword, in lower case."""

ROLES = ("system", "user", "assistant")
"""Who can say a MESSAGE."""


class InvalidModelfile(InvalidRequest):
    """A text that is not a Modelfile. `line` is where that was noticed, counted from 1; None if it is nowhere."""

    def __init__(self, message: str, remedy: str | None = None, *, line: int | None = None) -> None:
        super().__init__(message if line is None else f"(line {line}): {message}", remedy)
        self.line = line


class Instruction(Value, frozen=True, kw_only=True):
    """One instruction. `name` is that of a PARAMETER, or the role of a MESSAGE; empty for all others."""

    keyword: Keyword
    value: str
    name: str = ""


class Modelfile(Value, frozen=True, kw_only=True):
    """The instructions of a Modelfile. At least one of them is FROM."""

    instructions: tuple[Instruction, ...]

    def values(self, keyword: Keyword) -> tuple[str, ...]:
        """The values of all instructions with this keyword, in order."""
        return tuple(one.value for one in self.instructions if one.keyword == keyword)

    def last(self, keyword: Keyword) -> str:
        """The value that counts of an instruction that replaces earlier ones; empty if there is none."""
        return next(reversed(self.values(keyword)), "")
