"""The table of tokens: the vocabulary of ``tokenizer.json``, the tokens that were added to it, and the kind of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.adapters.formats.gguf.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED
from corral.core.errors import InvalidModelFile

__all__ = ("AddedToken", "added_tokens", "is_control", "token_table")


class AddedToken(msgspec.Struct, frozen=True):
    """An entry of ``added_tokens``: a text that is found before the vocabulary is used."""

    id: int
    content: str
    special: bool = False
    normalized: bool = True


def added_tokens(description: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    """Those of a ``tokenizer.json``. Raises `InvalidModelFile`."""
    try:
        return msgspec.convert(description.get("added_tokens") or (), tuple[AddedToken, ...])
    except msgspec.ValidationError as error:
        raise InvalidModelFile(f"tokenizer.json is malformed: added_tokens: {error}", "fetch it again") from error


def is_control(token: AddedToken) -> bool:
    """Whether it is a control token: as it says, or by its look, since some models forget to say so."""
    text = token.content
    looks = (text.startswith(start) and text.endswith(end) for start, end in (("<|", "|>"), ("<｜", "｜>")))
    return token.special or text in ("<pad>", "<mask>") or any(looks)


def token_table(
    description: Mapping[str, Any], vocabulary: Mapping[str, int], rows: int
) -> tuple[list[str], list[int]]:
    """Texts and kinds (``tokenizer.ggml.token_type``) of `rows` tokens. Rows without a token are unused.

    Raises `InvalidModelFile` if there are more tokens than rows, or if two have the same number.
    """
    texts: dict[int, str] = {}
    kinds: dict[int, int] = {}
    for text, index in vocabulary.items():
        _put(texts, index, text, rows)
    for token in added_tokens(description):
        if vocabulary.get(token.content, token.id) != token.id:
            raise InvalidModelFile(
                f"tokenizer.json: the token {token.content[:60]!r} has the numbers {token.id} and "
                f"{vocabulary[token.content]}",
                "fetch it again",
            )
        _put(texts, token.id, token.content, rows)
        kinds[token.id] = CONTROL if is_control(token) else USER_DEFINED
    return (
        [texts.get(index, f"[PAD{index}]") for index in range(rows)],
        [kinds.get(index, NORMAL) if index in texts else UNUSED for index in range(rows)],
    )


def _put(texts: dict[int, str], index: int, text: str, rows: int) -> None:
    if not 0 <= index < rows:
        raise InvalidModelFile(
            f"tokenizer.json: the token {text[:60]!r} has the number {index}, but the model has {rows} tokens",
            "fetch the tokenizer that belongs to the model",
        )
    if texts.setdefault(index, text) != text:
        raise InvalidModelFile(
            f"tokenizer.json: the tokens {texts[index][:60]!r} and {text[:60]!r} have the same number, {index}",
            "fetch it again",
        )
