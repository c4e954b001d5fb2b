"""Writes Go's values for the verbs of ``fmt``: ``%v``, ``%s``, ``%q``, ``%d`` and the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corral.adapters.templates.go.floats import float_text
from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.strings import can_backquote, cut_characters, quoted_ascii, rewritten, to_bytes
from corral.adapters.templates.go.values import (
    GoMap,
    GoPointer,
    GoSlice,
    GoStruct,
    Uint8,
    type_name,
    unboxed,
)
from corral.core.go.quoting import quote
from corral.core.requests.typed_text import unmarked

__all__ = ("Formatter", "bytes_of")

_NIL = "<nil>"
_ADDRESS = 0xC000000000
"""Where pointers point to: Go prints an address that is another one each time."""


class Formatter:
    """Writes one value after another to `pieces`, with the flags that are set: those of ``fmt``, by their names."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.pieces: list[str] = []
        self.clear_flags()

    def clear_flags(self) -> None:
        self.minus = self.plus = self.sharp = self.space = self.zero = self.plus_v = self.sharp_v = False
        self.width: int | None = None
        self.precision: int | None = None
        self._failing = False

    def write(self, text: str) -> None:
        self._limits.text(len(text))
        self.pieces.append(text)

    def argument(self, value: Any, verb: str) -> None:
        """An argument of ``printf`` or ``print``."""
        if value is None:
            if verb in "Tv":
                self._pad(_NIL)
            else:
                self._bad_verb(verb, None)
        elif verb == "T":
            self._pad(type_name(value)[: self.precision])
        elif verb == "p":
            self._pointer(value, verb)
        else:
            self._method_or_value(value, verb, 0)

    def _method_or_value(self, value: Any, verb: str, depth: int) -> None:
        self._limits.step()
        as_text = getattr(value, "as_text", None)
        if as_text is not None and verb in "vsxXq" and not self.sharp_v and not self._failing:
            self._string(as_text(value), verb)
        else:
            self._value(value, verb, depth)

    def _value(self, value: Any, verb: str, depth: int) -> None:
        match value:
            case None:
                self.write(_NIL)
            case bool():
                self._pad("true" if value else "false") if verb in "tv" else self._bad_verb(verb, value)
            case int():
                self._integer(value, verb)
            case float():
                self._float(value, verb)
            case complex():
                self._complex(value, verb)
            case str():
                self._string(value, verb)
            case GoSlice():
                self._slice(value, verb, depth)
            case GoMap():
                self._map(value, verb, depth)
            case GoStruct():
                self._struct(value, verb, depth)
            case GoPointer() if depth == 0 and value.to is not None:
                self.write("&")
                self._method_or_value(value.to, verb, depth + 1)
            case _:
                self._pointer(value, verb)

    # ── containers ────────────────────────────────────────────────────────────────────────────────────────────────

    def _slice(self, value: GoSlice, verb: str, depth: int) -> None:
        data = bytes_of(value)
        if data is not None and verb in "sqxX":
            self._string(data.decode(errors="surrogateescape"), verb)
        elif self.sharp_v and value.is_nil:
            self.write(f"{value.type}(nil)")
        else:
            self.write(f"{value.type}{{" if self.sharp_v else "[")
            self._elements(value.items, verb, depth)
            self.write("}" if self.sharp_v else "]")

    def _elements(self, elements: Sequence[Any], verb: str, depth: int) -> None:
        for number, element in enumerate(elements):
            if number:
                self._separator()
            self._element(element, verb, depth)

    def _element(self, element: Any, verb: str, depth: int) -> None:
        if element is None and self.sharp_v:
            self.write("interface {}(nil)")
        else:
            self._method_or_value(unboxed(element), verb, depth + 1)

    def _map(self, value: GoMap, verb: str, depth: int) -> None:
        if self.sharp_v and value.is_nil:
            self.write(f"{value.type}(nil)")
            return
        self.write(f"{value.type}{{" if self.sharp_v else "map[")
        for number, (key, element) in enumerate(value.sorted()):
            if number:
                self._separator()
            self._method_or_value(key, verb, depth + 1)
            self.write(":")
            self._element(element, verb, depth)
        self.write("}" if self.sharp_v else "]")

    def _struct(self, value: GoStruct, verb: str, depth: int) -> None:
        self.write(f"{value.type}{{" if self.sharp_v else "{")
        for number, (name, element) in enumerate(value.fields.items()):
            if number:
                self._separator()
            if self.plus_v or self.sharp_v:
                self.write(f"{name}:")
            self._element(element, verb, depth)
        self.write("}")

    def _separator(self) -> None:
        self.write(", " if self.sharp_v else " ")

    def _pointer(self, value: Any, verb: str) -> None:
        if not isinstance(value, GoPointer | GoSlice | GoMap):
            self._bad_verb(verb, value)
            return
        is_nil = value.to is None if isinstance(value, GoPointer) else value.is_nil
        if verb == "v":
            if self.sharp_v:
                self.write(f"({value.type})({'nil' if is_nil else hex(_ADDRESS)})")
            else:
                self._pad(_NIL if is_nil else hex(_ADDRESS))
        elif verb == "p":
            self._pad(hex(0 if is_nil else _ADDRESS))
        elif verb in "bodxX":
            self._integer(0 if is_nil else _ADDRESS, verb)
        else:
            self._bad_verb(verb, value)

    # ── plain values ──────────────────────────────────────────────────────────────────────────────────────────────

    def _string(self, text: str, verb: str) -> None:
        if verb == "s" or (verb == "v" and not self.sharp_v):
            self._pad(text if self.precision is None else cut_characters(text, self.precision))
        elif verb in "vq":
            self._quoted(text if self.precision is None else cut_characters(text, self.precision))
        elif verb in "xX":
            self._hexadecimal(to_bytes(text), verb)
        else:
            self._bad_verb(verb, text)

    def _quoted(self, text: str) -> None:
        self._limits.text(len(text))
        if self.sharp and can_backquote(unmarked(text)):
            self._pad(f"`{text}`")
        else:
            self._pad(
                '"' + rewritten(text, lambda piece: quote(piece)[1:-1] if not self.plus else quoted_ascii(piece)) + '"'
            )

    def _hexadecimal(self, data: bytes, verb: str) -> None:
        if self.precision is not None:
            data = data[: self.precision]
        self._limits.text(4 * len(data))
        prefix = f"0{verb}" if self.sharp and data else ""
        digits = data.hex(" ") if self.space else data.hex()
        if verb == "X":
            digits = digits.upper()
        if self.space:
            digits = digits.replace(" ", f" {prefix}")
        self._pad(prefix + digits)

    def _integer(self, value: int, verb: str) -> None:
        if verb == "v" and self.sharp_v and isinstance(value, Uint8):
            self.write(hex(value))
        elif verb in "vdboOxX":
            self._digits(value, verb)
        elif verb in "cq":
            code = value if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else 0xFFFD
            self._pad(chr(code) if verb == "c" else self._quoted_character(chr(code)))
        elif verb == "U":
            self._unicode(value)
        else:
            self._bad_verb(verb, value)

    def _digits(self, value: int, verb: str) -> None:
        if self.precision == 0 and value == 0:
            self.write(" " * (self.width or 0))
            return
        digits = f"{abs(value):{ {'v': 'd', 'O': 'o'}.get(verb, verb) }}"
        if self.precision is not None:
            digits = digits.zfill(self.precision)
        elif self.zero and not self.minus and self.width is not None:
            digits = digits.zfill(self.width - (value < 0 or self.plus or self.space))
        if self.sharp:
            prefix = {"b": "0b", "x": "0x", "X": "0X"}.get(verb, "0" if verb in "oO" and digits[0] != "0" else "")
            digits = prefix + digits
        if verb == "O":
            digits = f"0o{digits}"
        sign = "-" if value < 0 else "+" if self.plus else " " if self.space else ""
        self._pad(sign + digits, zero=False)

    def _unicode(self, value: int) -> None:
        text = f"U+{value & 0xFFFFFFFFFFFFFFFF:0{max(self.precision or 0, 4)}X}"
        if self.sharp and 0 <= value <= 0x10FFFF and chr(value).isprintable():
            text += f" '{chr(value)}'"
        self._pad(text, zero=False)

    def _quoted_character(self, character: str) -> str:
        if character in "'\"":
            return "'\\''" if character == "'" else "'\"'"
        return "'" + (quoted_ascii(character) if self.plus else quote(character)[1:-1]) + "'"

    def _float(self, value: float, verb: str) -> None:
        if verb not in "vbgGxXfFeE":
            self._bad_verb(verb, value)
            return
        written = {"v": "g", "F": "f"}.get(verb, verb)
        precision = 6 if self.precision is None and written in "feE" else self.precision
        text = float_text(value, written, precision, sharp=self.sharp)
        sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("+", text)
        if sign == "+":
            sign = "+" if self.plus else " " if self.space else "+" if digits == "Inf" and self.plus else ""
        if digits in ("Inf", "NaN"):
            shown = text if digits == "NaN" and not (self.plus or self.space) else (sign or "+") + digits
            self._pad(shown, zero=False)
        elif sign and self.zero and not self.minus and self.width is not None and self.width > len(digits) + 1:
            self.write(sign + digits.zfill(self.width - 1))
        else:
            self._pad(sign + digits)

    def _complex(self, value: complex, verb: str) -> None:
        if verb not in "vbgGxXfFeE":
            self._bad_verb(verb, value)
            return
        self.write("(")
        self._float(value.real, verb)
        plus, self.plus = self.plus, True
        self._float(value.imag, verb)
        self.plus = plus
        self.write("i)")

    def _bad_verb(self, verb: str, value: Any) -> None:
        self._failing = True
        self.write(f"%!{verb}(")
        if value is None:
            self.write(_NIL)
        else:
            self.write(f"{type_name(value)}=")
            self._value(value, "v", 0)
        self.write(")")
        self._failing = False

    def _pad(self, text: str, *, zero: bool = True) -> None:
        missing = 0 if self.width is None else self.width - len(unmarked(text))
        if missing <= 0:
            self.write(text)
        elif self.minus:
            self.write(text + " " * missing)
        else:
            self.write(("0" if self.zero and zero else " ") * missing + text)


def bytes_of(value: GoSlice) -> bytes | None:
    """The contents of a list of bytes, None for any other list."""
    return value.items if isinstance(value.items, bytes) else None
