"""``print``, ``println`` and ``printf``, as Go's ``fmt`` has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corral.adapters.templates.go.formatting import Formatter
from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.values import GoPointer, type_name

__all__ = ("printable", "sprint", "sprintf", "sprintln")

_TOO_LARGE = 1_000_000
_FLAGS = {"#": "sharp", "0": "zero", "+": "plus", "-": "minus", " ": "space"}


def sprint(arguments: Sequence[Any], limits: Limits) -> str:
    """The arguments, with a space between two of which neither is a string."""
    if len(arguments) == 1 and isinstance(arguments[0], str):
        return arguments[0]
    formatter = Formatter(limits)
    was_text = True
    for argument in arguments:
        is_text = isinstance(argument, str)
        if not is_text and not was_text:
            formatter.write(" ")
        formatter.argument(argument, "v")
        was_text = is_text
    return "".join(formatter.pieces)


def sprintln(arguments: Sequence[Any], limits: Limits) -> str:
    """The arguments with spaces between them, and a line break."""
    formatter = Formatter(limits)
    for number, argument in enumerate(arguments):
        if number:
            formatter.write(" ")
        formatter.argument(argument, "v")
    formatter.write("\n")
    return "".join(formatter.pieces)


def sprintf(pattern: str, arguments: Sequence[Any], limits: Limits) -> str:
    """The arguments, formatted by a pattern."""
    return _Printf(pattern, arguments, limits).run()


def printable(value: Any) -> Any:
    """The value as an action prints it: what a pointer points to, and a text for no value."""
    if value is None:
        return "<no value>"
    return value.to if isinstance(value, GoPointer) and value.to is not None else value


class _Printf:
    """One call of ``printf``; `_at` is the position in the pattern, `_next` the number of the next argument."""

    def __init__(self, pattern: str, arguments: Sequence[Any], limits: Limits) -> None:
        self._pattern = pattern
        self._arguments = arguments
        self._limits = limits
        self._formatter = Formatter(limits)
        self._at = 0
        self._next = 0
        self._reordered = False
        self._good_number = True
        self._after_index = False

    def run(self) -> str:
        formatter, pattern = self._formatter, self._pattern
        while self._at < len(pattern):
            percent = pattern.find("%", self._at)
            end = percent if percent >= 0 else len(pattern)
            if end > self._at:
                formatter.write(pattern[self._at : end])
            self._at = end + 1
            if percent >= 0 and not self._directive():
                formatter.write("%!(NOVERB)")
                break
        if not self._reordered and self._next < len(self._arguments):
            self._write_extra()
        return "".join(formatter.pieces)

    def _directive(self) -> bool:
        """What follows a percent sign. False if the pattern ends before the verb."""
        self._limits.step()
        formatter = self._formatter
        formatter.clear_flags()
        self._good_number = True
        while (flag := _FLAGS.get(self._character())) is not None:
            setattr(formatter, flag, True)
            self._at += 1
        if "a" <= self._character() <= "z" and self._next < len(self._arguments):
            self._verb(self._character())  # nothing but flags before it
            self._at += 1
            return True
        self._argument_number()
        self._read_width()
        if self._character() == "." and self._at + 1 < len(self._pattern):
            self._read_precision()
        if not self._after_index:
            self._argument_number()
        verb = self._character()
        if not verb:
            return False
        self._at += 1
        if verb == "%":
            formatter.write("%")
        elif not self._good_number:
            formatter.write(f"%!{verb}(BADINDEX)")
        elif self._next >= len(self._arguments):
            formatter.write(f"%!{verb}(MISSING)")
        else:
            self._verb(verb)
        return True

    def _verb(self, verb: str) -> None:
        formatter = self._formatter
        if verb in "vw":
            formatter.sharp_v, formatter.sharp = formatter.sharp, False
            formatter.plus_v, formatter.plus = formatter.plus, False
        formatter.argument(self._arguments[self._next], verb)
        self._next += 1

    def _read_width(self) -> None:
        formatter = self._formatter
        if self._character() == "*":
            self._at += 1
            width = self._number_argument()
            if width is None:
                formatter.write("%!(BADWIDTH)")
            elif width < 0:
                formatter.minus, formatter.zero = True, False
            formatter.width = None if width is None else abs(width)
            self._after_index = False
        else:
            formatter.width = self._number()
            if self._after_index and formatter.width is not None:
                self._good_number = False

    def _read_precision(self) -> None:
        formatter = self._formatter
        self._at += 1
        if self._after_index:
            self._good_number = False
        self._argument_number()
        if self._character() == "*":
            self._at += 1
            precision = self._number_argument()
            formatter.precision = precision if precision is not None and precision >= 0 else None
            if formatter.precision is None:
                formatter.write("%!(BADPREC)")
            self._after_index = False
        else:
            formatter.precision = self._number() or 0

    def _character(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _number(self) -> int | None:
        """A number in the pattern; one that is far too large ends the pattern."""
        start = self._at
        while "0" <= self._character() <= "9":
            if self._at - start > 6 and int(self._pattern[start : self._at]) > _TOO_LARGE:
                self._at = len(self._pattern)
                return None
            self._at += 1
        return int(self._pattern[start : self._at]) if self._at > start else None

    def _number_argument(self) -> int | None:
        if self._next >= len(self._arguments):
            return None
        value = self._arguments[self._next]
        self._next += 1
        return value if type(value) is not bool and isinstance(value, int) and abs(value) <= _TOO_LARGE else None

    def _argument_number(self) -> None:
        """An explicit number of an argument, like ``[2]``."""
        self._after_index = False
        if self._character() != "[":
            return
        self._reordered = True
        closed = self._pattern.find("]", self._at)
        if closed < 0:
            self._good_number = False
            self._at += 1
            return
        digits = self._pattern[self._at + 1 : closed]
        index = int(digits) - 1 if digits.isascii() and digits.isdecimal() and len(digits) < 8 else None
        self._at = closed + 1
        if index is not None and 0 <= index < len(self._arguments):
            self._next = index
            self._after_index = True
        else:
            self._good_number = False
            self._after_index = index is not None

    def _write_extra(self) -> None:
        formatter = self._formatter
        formatter.clear_flags()
        formatter.write("%!(EXTRA ")
        for number, argument in enumerate(self._arguments[self._next :]):
            if number:
                formatter.write(", ")
            if argument is not None:
                formatter.write(f"{type_name(argument)}=")
            formatter.argument(argument, "v")
        formatter.write(")")
