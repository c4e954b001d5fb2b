"""Prompts of texts and ids as one list of ids: what every engine's tokenizer does around its own way with texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corral.core.errors import InvalidRequest
from corral.core.requests import Prompt, TokensPart

__all__ = ("TextIds", "checked_ids", "prompt_ids")


class TextIds(Protocol):
    """The ids of a text, nothing added. Control tokens spelt in it stay text unless `parse_special`."""

    def __call__(self, text: str, *, parse_special: bool) -> Sequence[int]: ...


def prompt_ids(prompt: Prompt, text_ids: TextIds, vocabulary_size: int) -> list[int]:
    """The ids of all parts in a row. Raises `InvalidRequest` for an id that the vocabulary does not have."""
    ids: list[int] = []
    for part in prompt:
        if isinstance(part, TokensPart):
            ids.extend(checked_ids(part.ids, vocabulary_size))
        else:
            ids.extend(text_ids(part.text, parse_special=part.parse_special))
    return ids


def checked_ids(ids: Sequence[int], vocabulary_size: int) -> Sequence[int]:
    """The same, where the vocabulary has them all: native code reads beside its tables, or ends the process."""
    if ids:
        for token_id in (min(ids), max(ids)):
            if not 0 <= token_id < vocabulary_size:
                raise InvalidRequest(f"token {token_id} is not in the vocabulary of {vocabulary_size}")
    return ids
