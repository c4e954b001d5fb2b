"""How the type of an option is shown to people: ``int or None``, ``4 or 8``."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

__all__ = ("type_name",)


def type_name(annotation: Any) -> str:
    """On one line and without modules; bounds and descriptions are left out, the values of a `Literal` are listed."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(type_name, arguments)))
    if origin is Literal:
        return " or ".join(repr(value) for value in arguments)
    if origin is None:
        return "None" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))
    inner = ", ".join("..." if argument is Ellipsis else type_name(argument) for argument in arguments)
    return f"{getattr(origin, '__name__', origin)}[{inner}]"
