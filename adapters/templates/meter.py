"""Counts what one rendering of a template does, and stops it before it hangs a thread or fills the memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import jinja2

__all__ = ("METER", "LimitExceeded", "Meter")

_ROUNDS = 1_000_000
_SECONDS = 20.0
_REPEATS = 100_000
_TEXT = 8 * 2**20
_TEXT_IN_ALL = 64 * 2**20
_WEIGHT = 200_000

# A width or precision of many digits, or one that an argument gives: in ``%`` and ``strftime``, and in ``format``.
_WIDE = re.compile(r"%(?:\([^)]*\))?[-+ #_^0]*(?:[0-9]{0,4}\.)?(?:\*|[0-9]{5})|\{[^{}]*:[^{}]*(?:\{|[0-9]{5})")


class LimitExceeded(jinja2.TemplateRuntimeError):
    """The template is too busy or its output too big."""


class Meter:
    """What one rendering may still spend. `input_chars` is how much text it was given."""

    def __init__(self, input_chars: int) -> None:
        self._rounds = _ROUNDS
        self._deadline = time.monotonic() + _SECONDS
        self._longest = _TEXT + 16 * input_chars
        self._chars = _TEXT_IN_ALL + 512 * input_chars
        self._heaviest = _WEIGHT + 64 * input_chars
        self._weights: dict[int, tuple[object, int]] = {}

    def tick(self) -> None:
        """One round of a loop, one call, one operator."""
        self._rounds -= 1
        if self._rounds < 0:
            raise LimitExceeded(f"it takes more than {_ROUNDS} steps")
        if time.monotonic() > self._deadline:
            raise LimitExceeded(f"it takes more than {_SECONDS:g} seconds")

    def text(self, length: int) -> None:
        """A text of this length is about to exist."""
        self._chars -= length
        if length > self._longest or self._chars < 0:
            raise LimitExceeded("it builds too much text")

    def repeats(self, value: object) -> int:
        """A number that says how wide, how often, how precise."""
        if isinstance(value, int | float) and abs(value) > _REPEATS:
            raise LimitExceeded(f"a number above {_REPEATS} as a width or count")
        return max(int(value), 0) if isinstance(value, int) else 0

    def pattern(self, text: str) -> None:
        """A pattern for ``format``, ``%`` or ``strftime``, which may ask for padding of any width."""
        if _WIDE.search(text) or len(text) > 10_000:
            raise LimitExceeded("a format with such a width")

    def arguments(self, arguments: Iterable[object]) -> None:
        for argument in arguments:
            self._weigh(argument)

    def result(self, value: Any) -> Any:
        if isinstance(value, str):
            self.text(len(value))
        elif isinstance(value, int) and value.bit_length() > 4096:
            raise LimitExceeded("a number of too many digits")
        else:
            self._weigh(value)
        return value

    def _weigh(self, value: object, depth: int = 0) -> int:
        """Texts and items inside, shared ones counted each time: what printing it, or comparing it, would cost."""
        if isinstance(value, str):
            return 1 + len(value)
        if not isinstance(value, list | tuple | dict | set):
            return 1
        known = self._weights.get(id(value))
        if known is not None:
            return known[1]
        if depth > 100:
            raise LimitExceeded("containers are nested too deep")
        items: Iterable[object] = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        weight = 1
        for item in items:
            weight += self._weigh(item, depth + 1)
            if weight > self._heaviest:
                raise LimitExceeded("it builds too big a list")
        # The value is kept beside its weight, so that its id is not given to another one meanwhile.
        self._weights[id(value)] = (value, weight)
        return weight


METER: ContextVar[Meter] = ContextVar("meter")
"""The meter of the rendering that runs in this thread."""
