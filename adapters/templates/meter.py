"""Counts what one rendering of a template does, and stops it before it hangs a thread or fills the memory."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes

from corral.core.generation.rendering import abandoned
from corral.core.requests.typed_text import without_escapes

__all__ = ("METER", "PLAIN", "LimitExceeded", "Meter", "running_meter")

_ROUNDS = 1_000_000
_CPU_SECONDS = 3.0
PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types of values that contain no others; checking for them first avoids slower checks."""

_STEPS_A_CHECK = 32
_PARTS = 1000
"""A template with more parts than this asks for the time after fewer steps: each may pass through all of its parts."""
_CHARS_A_STEP = 128
_ITEMS_A_STEP = 8
_REPEATS = 100_000
_LONGEST_PATH = 8
_MAX_INPUT = 4 << 20
"""Characters. Longer conversations do not raise the limits any further."""
_TEXT = 2 << 20
_TEXT_IN_ALL = 64 << 20
_KEPT_BYTES = 32 << 20
_WORTH_COUNTING_BYTES = 4096
_WEIGHT = 200_000
_ITEMS = 2_000_000
_DEEPEST = 100
_REMEMBERED_WEIGHTS = 10_000

# Python accepts digits of every script as a width.
_NUMBER = re.compile(r"\d+")
# A width that comes from an argument, in ``%`` and in ``format``.
_WIDTH_FROM_ARGUMENT = re.compile(r"%[^%a-zA-Z]*\*|\{[^{}]*:[^{}]*\{")


class LimitExceeded(jinja2.TemplateRuntimeError):
    """The template does too much, or its output is too long."""


class _Weight(NamedTuple):
    container: object
    """A value with its weight. Keeping the value ensures that its id is not reused."""
    weight: int
    depth: int


class Meter:
    """What one rendering may still use, including processor time of its thread.

    `input_chars` is the length of its input, `parts` the size of the template.
    """

    def __init__(self, input_chars: int, parts: int = 0) -> None:
        input_chars = min(input_chars, _MAX_INPUT)
        self._rounds = _ROUNDS
        self._deadline_s: float | None = None
        self._steps_a_check = _STEPS_A_CHECK // (1 + parts // _PARTS)
        self._unchecked = 0
        self._longest = _TEXT + 3 * input_chars
        self._chars = _TEXT_IN_ALL + 512 * input_chars
        self._printed = 0
        self._heaviest = _WEIGHT + 4 * input_chars
        self._items = _ITEMS + input_chars
        self._weights: dict[int, _Weight] = {}
        self._most_kept_bytes = _KEPT_BYTES + 12 * input_chars
        self._kept_bytes = 0
        self._kept: dict[int, str] = {}

    # ── work ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self, rounds: int = 1) -> None:
        """Count steps: iterations of a loop, calls, operators, pieces that a text is going to be split into."""
        self._rounds -= rounds
        if self._rounds < 0:
            raise LimitExceeded(f"it takes more than {_ROUNDS} steps")
        self._unchecked += rounds
        if self._unchecked < self._steps_a_check:  # reading the clock costs more than most steps
            return
        self._unchecked = 0
        now_s = time.thread_time()
        if self._deadline_s is None:
            self._deadline_s = now_s + _CPU_SECONDS
        if now_s > self._deadline_s:
            raise LimitExceeded(f"it takes more than {_CPU_SECONDS:g} seconds")
        if abandoned():
            raise LimitExceeded("nobody waits for it")

    def repeats(self, value: object) -> int:
        """Check a number that is a width, a count or a precision."""
        if isinstance(value, int | float) and abs(value) > _REPEATS:
            raise LimitExceeded(f"it uses a width or count above {_REPEATS}")
        return max(int(value), 0) if isinstance(value, int) else 0

    def compared(self, value: object) -> None:
        """Count a comparison with this value, or a search in it."""
        self.tick()
        if isinstance(value, str):
            self.read(value)
        else:
            self._unchecked += self.weight(value) // _CHARS_A_STEP

    def read(self, text: str) -> None:
        """Count that a text is read from beginning to end."""
        self._unchecked += len(text) // _CHARS_A_STEP

    def path(self, attribute: object) -> None:
        """Check an attribute like ``a.b.c`` that a filter looks up in every item."""
        if isinstance(attribute, str) and attribute.count(".") + attribute.count(",") >= _LONGEST_PATH:
            raise LimitExceeded(f"an attribute of more than {_LONGEST_PATH} names")

    def comparisons(self, count: int) -> None:
        """Count the comparisons for sorting a list of this length."""
        self.tick(count * count.bit_length() // 4)

    # ── texts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def text(self, length: int) -> None:
        """Count a text of this length before it is created."""
        if length > self._longest or length > self._chars:
            raise LimitExceeded("it builds too much text")

    def printed(self, length: int) -> None:
        """Count text that is added to the prompt."""
        self._printed += length
        self.text(self._printed)

    def spelled(self, value: object) -> str:
        """The value as text, measured before it is created."""
        if isinstance(value, str):
            return value
        if isinstance(value, int | float):
            return str(value)
        self.text(2 * self.weight(value))
        return without_escapes(str(value))

    def pattern(self, text: str, arguments: Iterable[object] = ()) -> None:
        """Measure a pattern for ``format``, ``%`` or ``strftime``: widths, and each field with the longest argument."""
        if len(text) > 10_000 or _WIDTH_FROM_ARGUMENT.search(text):
            raise LimitExceeded("a format with such a width")
        numbers = _NUMBER.findall(text)
        if any(len(number) > 5 for number in numbers):
            raise LimitExceeded("a format with such a width")
        longest = max((self.weight(argument) for argument in arguments), default=0)
        fields = text.count("%") + text.count("{")
        self.text(len(text) + sum(map(int, numbers)) + fields * (longest + 64))

    # ── values ────────────────────────────────────────────────────────────────────────────────────────────────────

    def arguments(self, arguments: Iterable[object]) -> None:
        for argument in arguments:
            self.weight(argument)

    def result(self, value: Any) -> Any:
        """Measure and return the result of a call or an operator."""
        if isinstance(value, str):
            self.text(len(value))
            self._chars -= len(value)
            self._unchecked += len(value) // _CHARS_A_STEP
            self._keep(value)
        elif isinstance(value, int):
            if value.bit_length() > 4096:
                raise LimitExceeded("a number of too many digits")
        elif type(value) not in PLAIN:
            self.weight(value)
        return value

    def weight(self, value: object) -> int:
        """Texts and items inside, counted each time they occur: what printing or comparing the value would cost."""
        return self._weigh(value, 0)[0]

    def depth(self, value: object) -> int:
        """How deeply its containers are nested."""
        return self._weigh(value, 0)[1]

    def _weigh(self, value: object, level: int) -> tuple[int, int]:
        if isinstance(value, str):
            return 1 + len(value), 0
        if type(value) in PLAIN or not isinstance(value, list | tuple | Mapping | set | frozenset):
            return 1, 0
        known = self._weights.get(id(value))
        if known is not None:
            return known.weight, known.depth
        if level > _DEEPEST:
            raise LimitExceeded("containers are nested too deeply")
        self._items -= len(value)
        if self._items < 0:
            raise LimitExceeded("it builds too many lists")
        self._unchecked += len(value) // _ITEMS_A_STEP
        items: Iterable[object] = (*value.keys(), *value.values()) if isinstance(value, Mapping) else value
        weight, depth = 1, 0
        for item in items:
            inner, below = self._weigh(item, level + 1)
            weight += inner
            depth = max(depth, below)
            if weight > self._heaviest:
                raise LimitExceeded("it builds a list that is too long")
        if len(self._weights) > _REMEMBERED_WEIGHTS:
            self._weights.clear()
        self._weights[id(value)] = _Weight(value, weight, depth + 1)
        return weight, depth + 1

    def _keep(self, text: str) -> None:
        """Count the texts that are alive at the same time, no matter how the template refers to them."""
        size_bytes = sys.getsizeof(text)
        if size_bytes < _WORTH_COUNTING_BYTES or id(text) in self._kept:
            return
        self._kept[id(text)] = text
        self._kept_bytes += size_bytes
        if self._kept_bytes > self._most_kept_bytes:
            self._kept = {id(text): text for text in _used(self._kept)}
            self._kept_bytes = sum(map(sys.getsizeof, self._kept.values()))
            if 2 * self._kept_bytes > self._most_kept_bytes:
                raise LimitExceeded("it keeps too much text")


def _used(texts: dict[int, str]) -> list[str]:
    """The texts that something else also refers to. `texts` is empty afterwards."""
    used = []
    while texts:
        _, text = texts.popitem()
        if sys.getrefcount(text) > _UNUSED:
            used.append(text)
    return used


def _references_of_unused() -> int:
    """What `sys.getrefcount` returns, in a loop like that of `_used`, for a text that nothing else refers to."""
    texts = {0: "".join(("nothing", " else"))}
    count = 0
    while texts:
        _, text = texts.popitem()
        count = sys.getrefcount(text)
    return count


_UNUSED = _references_of_unused()

METER: ContextVar[Meter | None] = ContextVar("meter", default=None)
"""The meter of the rendering in this thread; None while a template is compiled."""


def running_meter() -> Meter:
    """The meter of the rendering in this thread."""
    meter = METER.get()
    if meter is None:  # a constant expression: leave it to the compiled code
        raise nodes.Impossible
    return meter
