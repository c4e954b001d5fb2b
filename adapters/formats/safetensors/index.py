"""Reads ``model.safetensors.index.json``, which says in which file of a checkpoint each tensor is.

Source: https://huggingface.co/docs/transformers (sharded checkpoints): ``weight_map`` has a file name for each tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from corral.core.errors import InvalidModelFile
from corral.core.malformed import MALFORMED
from corral.core.regular_files import read_regular

__all__ = ("read_index",)

_LIMIT_BYTES = 64 * 1024 * 1024


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def read_index(path: Path) -> Mapping[str, str]:
    """The file name of each tensor. Raises `InvalidModelFile` for an index that is malformed or cannot be read."""
    try:
        return msgspec.json.decode(read_regular(path, _LIMIT_BYTES), type=_Index).weight_map
    except MALFORMED as error:
        raise InvalidModelFile(f"{path.name} is malformed: {error}", "fetch it again") from error
    except OSError as error:
        raise InvalidModelFile(f"{path.name}: {error.strerror or error}") from error
