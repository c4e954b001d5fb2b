"""Counts what one rendering of a Go template does, and stops it before it hangs a thread or fills the memory."""

from __future__ import annotations

import time

from corral.core.generation.rendering import abandoned

__all__ = ("LimitReached", "Limits")

_STEPS = 1_000_000
_CPU_SECONDS = 3.0
_STEPS_A_CHECK = 32
_CHARS_A_STEP = 256
_LONG_TEXT = 4096
_MAX_INPUT = 4 << 20
"""Characters. Longer conversations do not raise the limits any further."""
_TEXT = 2 << 20
_TEXT_IN_ALL = 64 << 20


class LimitReached(Exception):
    """The template does too much, or its output is too long."""


class Limits:
    """What one rendering may still use. `input_chars` is the length of the conversation."""

    def __init__(self, input_chars: int) -> None:
        input_chars = min(input_chars, _MAX_INPUT)
        self._steps = _STEPS + input_chars
        self._unchecked = 0
        self._ends_s: float | None = None
        self._longest = _TEXT + 3 * input_chars
        self._chars = _TEXT_IN_ALL + 64 * input_chars
        self._printed = 0

    def step(self, steps: int = 1) -> None:
        """Count nodes that are evaluated, iterations, values that are looked at."""
        self._unchecked += steps
        if self._unchecked < _STEPS_A_CHECK:  # reading the clock costs more than most steps
            return
        self._steps -= self._unchecked
        self._unchecked = 0
        if self._steps < 0:
            raise LimitReached(f"it takes more than {_STEPS} steps")
        now_s = time.thread_time()
        if self._ends_s is None:
            self._ends_s = now_s + _CPU_SECONDS
        if now_s > self._ends_s:
            raise LimitReached(f"it takes more than {_CPU_SECONDS:g} seconds")
        if abandoned():
            raise LimitReached("nobody waits for it")

    def text(self, length: int) -> None:
        """Count a text of this length, before it is built if possible."""
        self._chars -= length
        if length > self._longest or self._chars < 0:
            raise LimitReached("it builds too much text")
        if length > _LONG_TEXT and abandoned(length):
            raise LimitReached("nobody waits for it")
        self.step(1 + length // _CHARS_A_STEP)

    def printed(self, length: int) -> None:
        """Count text that becomes part of the prompt."""
        self._printed += length
        if self._printed > self._longest:
            raise LimitReached("its output is too long")
