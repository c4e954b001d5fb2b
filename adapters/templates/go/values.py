"""Go's values, as far as chat templates can meet them.

A Python string, bool, int, float or complex is the Go value of the type string, bool, int, float64 or complex128; None
is no value at all, an untyped nil. Bytes of a string that are not UTF-8 are surrogates (``surrogateescape``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

__all__ = (
    "ANY",
    "GoMap",
    "GoPointer",
    "GoSequence",
    "GoSlice",
    "GoStruct",
    "Interface",
    "TemplateFailure",
    "Uint8",
    "fail",
    "is_true",
    "type_name",
    "unboxed",
)

ANY = "interface {}"


class TemplateFailure(Exception):
    """A function failed; the text is Go's."""


class Uint8(int):
    """A byte of a string, which is a type of its own."""


class Interface:
    """A value whose static type is ``any``: an entry of a map, an element of a list. `value` None is nil."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class GoSlice:
    """A list. `items` None is a nil slice; `as_text`, if there is one, is the type's method ``String``.

    `spare` is how many elements lie behind the last one in memory: ``slice`` may bring them back. If `boxed`, the
    elements are of type ``any``.
    """

    __slots__ = ("as_text", "boxed", "is_nil", "items", "spare", "type")

    def __init__(
        self,
        type_: str,
        items: Sequence[Any] | None,
        *,
        boxed: bool = False,
        as_text: Callable[[GoSlice], str] | None = None,
        spare: Sequence[Any] = (),
    ) -> None:
        self.type = type_
        self.is_nil = items is None
        self.items: Sequence[Any] = items or ()
        self.boxed = boxed
        self.as_text = as_text
        self.spare = spare

    def at(self, index: int) -> Any:
        """The element, as the expression ``x[index]`` has it."""
        return Interface(self.items[index]) if self.boxed else self.items[index]

    def part(self, items: Sequence[Any], spare: Sequence[Any]) -> GoSlice:
        """A list of the same type with these elements."""
        return type(self)(self.type, items, boxed=self.boxed, as_text=self.as_text, spare=spare)


class GoMap:
    """A map whose keys are strings. `labels` are the keys as they are to be printed, if that differs.

    `zero` makes the zero value of its elements; None for elements of type ``any``. `keeps_order` is for those that JSON
    shows in their own order.
    """

    __slots__ = ("as_text", "boxed", "entries", "is_nil", "keeps_order", "labels", "type", "zero")

    def __init__(
        self,
        type_: str,
        entries: Mapping[str, Any] | None,
        labels: Mapping[str, str] | None = None,
        *,
        zero: Callable[[], Any] | None = None,
        as_text: Callable[[GoMap], str] | None = None,
        keeps_order: bool = False,
    ) -> None:
        self.type = type_
        self.zero = zero
        self.boxed = zero is None
        self.keeps_order = keeps_order
        self.is_nil = entries is None
        self.entries: Mapping[str, Any] = entries or {}
        self.labels: Mapping[str, str] = labels or {}
        self.as_text = as_text

    def get(self, key: str) -> Any:
        """The entry as the expression ``x[key]`` has it; without one, the zero value of the type."""
        if self.zero is None:
            return Interface(self.entries.get(key))
        return self.entries[key] if key in self.entries else self.zero()

    def sorted(self) -> list[tuple[str, Any]]:
        """The keys to print and the values, in Go's order for loops."""
        labels = self.labels
        keys = self.entries if self.keeps_order else sorted(self.entries)
        return [(labels.get(key, key), self.entries[key]) for key in keys]


class GoStruct:
    """A struct. `boxed` are the names of its fields of type ``any``; `methods` take no arguments.

    JSON shows the fields under their `json_names`, and leaves out those that are `omitted` if empty.
    """

    __slots__ = ("as_text", "boxed", "fields", "json_names", "methods", "omitted", "type")

    def __init__(
        self,
        type_: str,
        fields: Mapping[str, Any],
        *,
        boxed: frozenset[str] = frozenset(),
        json_names: Mapping[str, str] | None = None,
        omitted: frozenset[str] = frozenset(),
        as_text: Callable[[GoStruct], str] | None = None,
        methods: Mapping[str, Callable[[GoStruct], Any]] | None = None,
    ) -> None:
        self.type = type_
        self.fields = fields
        self.boxed = boxed
        self.json_names: Mapping[str, str] = json_names or {}
        self.omitted = omitted
        self.as_text = as_text
        self.methods: Mapping[str, Callable[[GoStruct], Any]] = methods or {}


class GoPointer:
    """A pointer to a struct; `to` None is nil. `methods` are those of a nil pointer."""

    __slots__ = ("methods", "to", "type")

    def __init__(
        self, type_: str, to: GoStruct | None, *, methods: Mapping[str, Callable[[Any], Any]] | None = None
    ) -> None:
        self.type = type_
        self.to = to
        self.methods: Mapping[str, Callable[[Any], Any]] = methods or {}


class GoSequence:
    """An ``iter.Seq2``, a function that loops go through: `pairs` are the keys and values."""

    __slots__ = ("pairs", "type")

    def __init__(self, type_: str, pairs: Sequence[tuple[str, Any]]) -> None:
        self.type = type_
        self.pairs = pairs


def fail(complaint: str) -> NoReturn:
    raise TemplateFailure(complaint)


def unboxed(value: Any) -> Any:
    """The value inside an interface."""
    return value.value if type(value) is Interface else value


def type_name(value: Any) -> str:
    """The name of a value's type, as ``%T`` and errors write it."""
    if value is None:
        return "<nil>"
    known = _NAMES.get(type(value))
    return known if known is not None else str(value.type)


_NAMES = {
    str: "string", bool: "bool", int: "int", float: "float64", complex: "complex128", Uint8: "uint8", Interface: ANY,
}  # fmt: skip


def is_true(value: Any) -> bool:
    """Go's idea of truth: not the zero value of its type, not empty."""
    value = unboxed(value)
    if isinstance(value, GoSlice):
        return bool(value.items)
    if isinstance(value, GoMap):
        return bool(value.entries)
    if isinstance(value, GoStruct | GoSequence):
        return True
    if isinstance(value, GoPointer):
        return value.to is not None
    return bool(value)
