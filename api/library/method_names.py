"""Lets the methods that a public class inherits carry its own name in Python's errors: `names_its_methods`."""

from __future__ import annotations

from inspect import isfunction
from typing import TypeVar

__all__ = ("names_its_methods",)

C = TypeVar("C", bound=type)


def names_its_methods(public: C) -> C:
    """A decorator of a class whose bases are its own alone: Python's ``TypeError`` then says ``Corral.quantize()``, and
    not the name of a base that nobody who uses the class knows."""
    for base in public.__mro__[1:]:
        for name, method in vars(base).items():
            if isfunction(method) and method.__qualname__ == f"{base.__name__}.{name}":
                method.__qualname__ = f"{public.__name__}.{name}"
    return public
