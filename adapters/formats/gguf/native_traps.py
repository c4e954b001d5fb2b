"""Refuses headers that native loaders trust blindly: arrays of another type or length than they read.

llama.cpp reads the lists of a vocabulary through pointers, as many values as there are tokens, whatever the header says
about them (``llama-vocab.cpp``); the same holds for the colours of a projector (``clip.cpp``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.adapters.formats.gguf.header import Array
from corral.adapters.formats.gguf.tables import STRING
from corral.core.errors import InvalidModelFile

__all__ = ("refuse_traps",)

_U8, _I8, _U32, _I32, _F32 = 0, 1, 4, 5, 6
_VOCABULARY = "tokenizer.ggml."
_COLOURS = 3


def refuse_traps(file_name: str, pairs: Mapping[str, Any]) -> None:
    """Raises `InvalidModelFile`."""
    for key, value in pairs.items():
        if key.startswith(_VOCABULARY):
            _check_vocabulary(file_name, key, value, pairs.get(f"{_VOCABULARY}tokens"))
        elif key.endswith((".image_mean", ".image_std")):
            _check_array(file_name, key, value, (_F32,), _COLOURS)


def _check_vocabulary(file_name: str, key: str, value: Any, tokens: Any) -> None:
    count = tokens.length if isinstance(tokens, Array) else 0
    name = key.removeprefix(_VOCABULARY)
    if name in ("tokens", "merges"):
        _check_array(file_name, key, value, (STRING,), 0)
    elif name == "scores":
        _check_array(file_name, key, value, (_F32,), count)
    elif name == "token_type":
        _check_array(file_name, key, value, (_I32, _U32), count)
    elif name == "precompiled_charsmap":
        _check_array(file_name, key, value, (_U8, _I8), 0)


def _check_array(file_name: str, key: str, value: Any, element_types: tuple[int, ...], least: int) -> None:
    if not isinstance(value, Array) or (value.element_type not in element_types and value.length):
        raise InvalidModelFile(f"{file_name}: {key} is not a list of the right type", "fetch or convert the file again")
    if value.length < least:
        raise InvalidModelFile(
            f"{file_name}: {key} has {value.length} values, but {least} are needed", "fetch or convert the file again"
        )
