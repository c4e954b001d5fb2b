"""``eq``, ``ne``, ``lt``, ``le``, ``gt`` and ``ge`` of Go templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.printing import sprintf
from corral.adapters.templates.go.strings import to_bytes
from corral.adapters.templates.go.values import GoMap, GoPointer, GoSlice, Uint8, fail, type_name, unboxed
from corral.core.requests.typed_text import unmarked

__all__ = ("equal", "less", "less_or_equal")

_BAD_TYPE = "invalid type for comparison"
_KINDS = {bool: "bool", int: "int", Uint8: "uint", float: "float", complex: "complex", str: "string"}


def equal(first: Any, others: Sequence[Any], limits: Limits) -> bool:
    """Whether the first equals one of the others. Raises `TemplateFailure` for types that cannot be compared."""
    first = unboxed(first)
    if not others:
        fail("missing argument for comparison")
    return any(_equal(first, unboxed(other), limits) for other in others)


def less(one: Any, other: Any, limits: Limits) -> bool:
    """Raises `TemplateFailure` for types that have no order."""
    one, other = unboxed(one), unboxed(other)
    kinds = _KINDS.get(type(one)), _KINDS.get(type(other))
    if None in kinds:
        fail(_BAD_TYPE)
    if set(kinds) != {"int", "uint"} and kinds[0] != kinds[1]:
        fail(f"incompatible types for comparison: {type_name(one)} and {type_name(other)}")
    if kinds[0] in ("bool", "complex"):
        fail(_BAD_TYPE)
    if kinds[0] == "string":
        limits.text(min(len(one), len(other)))
        one, other = to_bytes(one), to_bytes(other)
    return bool(one < other)


def less_or_equal(one: Any, other: Any, limits: Limits) -> bool:
    """Raises `TemplateFailure` for types that have no order."""
    return less(one, other, limits) or equal(one, (other,), limits)


def _equal(one: Any, other: Any, limits: Limits) -> bool:
    limits.step()
    kinds = _KINDS.get(type(one)), _KINDS.get(type(other))
    if set(kinds) == {"int", "uint"}:
        return bool(one == other)
    if kinds[0] != kinds[1]:
        if one is not None and other is not None:
            fail(f"incompatible types for comparison: {type_name(one)} and {type_name(other)}")
        return False
    if kinds[0] == "string":
        limits.text(min(len(one), len(other)))
        return unmarked(one) == unmarked(other)
    if kinds[0] is not None:
        return bool(one == other)
    return _same(one, other, limits)


def _same(one: Any, other: Any, limits: Limits) -> bool:
    """For values that are neither numbers, strings nor booleans."""
    if one is not None and other is not None and _kind(one) != _kind(other):
        shown = (one, type_name(one), type_name(other), other)
        fail(sprintf("non-comparable types %s: %v, %s: %v", shown, limits))
    if _is_nil(one) or _is_nil(other):
        return _is_nil(one) == _is_nil(other)
    if not isinstance(other, GoPointer):
        fail(sprintf("non-comparable type %s: %v", (other, type_name(other)), limits))
    return isinstance(one, GoPointer) and one.to is other.to


def _kind(value: Any) -> str:
    return type(value).__mro__[-2].__name__


def _is_nil(value: Any) -> bool:
    if isinstance(value, GoPointer):
        return value.to is None
    return value is None or (isinstance(value, GoSlice | GoMap) and value.is_nil)
