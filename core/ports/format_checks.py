"""The port for checking finished answers against the JSON Schema that they were to follow."""

from __future__ import annotations

from typing import Protocol

from corral.core.values import Value

__all__ = ("FormatCheck", "FormatChecker")


class FormatCheck(Value, frozen=True, kw_only=True):
    """Whether an answer fits its format, and what is wrong if not. `valid` is None if that could not be checked:
    `problem` says why.
    """

    valid: bool | None
    problem: str = ""


class FormatChecker(Protocol):
    """Checks texts against JSON Schemas. Both may be hostile: time and memory are limited, and nothing is fetched."""

    def check(self, schema: str, text: str) -> FormatCheck:
        """Called in a thread, several at a time. Raises nothing."""
        ...
