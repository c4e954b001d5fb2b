"""How an engine tokenizes a text, and which ids it accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corral.core.errors import InvalidRequest

__all__ = ("TextIds", "checked_ids")


class TextIds(Protocol):
    """Return the ids of a text, with nothing added. Control tokens in it stay text unless `parse_special`."""

    def __call__(self, text: str, *, parse_special: bool) -> Sequence[int]: ...


def checked_ids(ids: Sequence[int], vocabulary_size: int) -> Sequence[int]:
    """Return the same ids if all are in the vocabulary; with others, native code would read outside its tables or
    crash.
    """
    if ids:
        for token_id in (min(ids), max(ids)):
            if not 0 <= token_id < vocabulary_size:
                raise InvalidRequest(f"token {token_id} is not in the vocabulary of {vocabulary_size}")
    return ids
