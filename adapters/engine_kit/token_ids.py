"""How an engine tokenizes a text, and which ids it may be given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corral.core.errors import InvalidRequest

__all__ = ("TextIds", "checked_ids")


class TextIds(Protocol):
    """The ids of a text, nothing added. Control tokens spelt in it stay text unless `parse_special`."""

    def __call__(self, text: str, *, parse_special: bool) -> Sequence[int]: ...


def checked_ids(ids: Sequence[int], vocabulary_size: int) -> Sequence[int]:
    """The same, where the vocabulary has them all: native code reads beside its tables, or ends the process."""
    if ids:
        for token_id in (min(ids), max(ids)):
            if not 0 <= token_id < vocabulary_size:
                raise InvalidRequest(f"token {token_id} is not in the vocabulary of {vocabulary_size}")
    return ids
