"""Checks the types of what plugins return, before anything relies on them."""

from __future__ import annotations

from types import UnionType
from typing import Any, TypeVar, get_origin

import msgspec

from corral.core.containment import short_line

__all__ = ("checked", "validated")

T = TypeVar("T")


def checked(result: Any, wanted: type[T]) -> T:
    """The result, if it is an instance of this class. Raises `TypeError`."""
    if not isinstance(result, wanted):
        raise TypeError(f"it returned {short_line(repr(result), 60)} instead of {getattr(wanted, '__name__', wanted)}")
    return result


def validated(result: Any, wanted: Any) -> Any:
    """The result as a value of this type, after all its fields and elements have been checked.

    A Struct can be made with fields of any type. Raises `TypeError`, and `ValueError` that names the field.
    """
    origin = get_origin(wanted)
    checked(result, wanted if origin is UnionType else origin or wanted)
    return msgspec.convert(msgspec.to_builtins(result, builtin_types=(bytes,)), wanted, builtin_types=(bytes,))
