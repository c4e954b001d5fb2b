"""Translates errors: foreign exceptions into those of Corral, and data from another process back into errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from corral.core.errors import CorralError, EngineError, ErrorInfo, InvalidRequest

__all__ = ("map_errors", "no_unicode", "to_error")


def _tree(root: type[CorralError]) -> Iterator[type[CorralError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def to_error(info: ErrorInfo) -> CorralError:
    """The error with the class of ``info.code``; an unknown code gives an `EngineError` with the same text."""
    kind = next((kind for kind in _tree(CorralError) if kind.code == info.code), EngineError)
    error = kind(info.message, info.remedy)
    error.quoted = info.quoted
    return error


def no_unicode(error: UnicodeEncodeError) -> InvalidRequest:
    """The error for a text that contains a lone surrogate."""
    return InvalidRequest(f"a string is not valid Unicode: {error}", "remove the surrogates")


@contextmanager
def map_errors(table: Mapping[type[BaseException], type[CorralError]], subject: str) -> Iterator[None]:
    """Translate foreign exceptions at an adapter's boundary: the first matching row wins, and the cause is kept.

    The message becomes ``<subject>: <foreign text>``; Corral's own errors pass through.
    """
    try:
        yield
    except CorralError:
        raise
    except BaseException as foreign:
        for kind, ours in table.items():
            if isinstance(foreign, kind):
                raise ours(f"{subject}: {foreign}") from foreign
        raise
