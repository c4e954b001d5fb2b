"""Fields that accept only certain texts: which those are, and values that spell them in another case."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

__all__ = ("choices_of", "in_listed_case")


def choices_of(kind: type[msgspec.Struct], name: str) -> tuple[str, ...]:
    """The texts that a field accepts, by its name in data; empty for a field that accepts others, and for none."""
    return _choices(kind).get(name, ())


def in_listed_case(values: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The values for a Struct of this kind, with each text that is a field's choice in another case as it is listed:
    ``Q8_0`` becomes ``q8_0``, or the other way round."""
    return {name: _listed(value, choices_of(kind, name)) for name, value in values.items()}


def _listed(value: Any, choices: tuple[str, ...]) -> Any:
    if not isinstance(value, str) or value in choices:
        return value
    alike = [choice for choice in choices if choice.lower() == value.lower()]
    return alike[0] if len(alike) == 1 else value


@cache
def _choices(kind: type[msgspec.Struct]) -> Mapping[str, tuple[str, ...]]:
    return {field.encode_name: _texts(field.type) for field in msgspec.structs.fields(kind)}


def _texts(annotation: Any) -> tuple[str, ...]:
    """The texts of a `Literal` or an enumeration, which may also be None, in the order in which they are listed."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _texts(arguments[0])
    if origin in (Union, UnionType):
        others = [one for one in arguments if one is not NoneType]
        return _texts(others[0]) if len(others) == 1 else ()
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        arguments = tuple([member.value for member in annotation])
    elif origin is not Literal:
        return ()
    return arguments if all(isinstance(value, str) for value in arguments) else ()
