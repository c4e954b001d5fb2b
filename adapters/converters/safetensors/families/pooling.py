"""How a sentence encoder makes one vector of those of its tokens: what ``modules.json`` and its parts say.

Source: sentence-transformers, whose folders have a ``config.json`` for each module.
"""

from __future__ import annotations

from typing import Any

import msgspec

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.core.errors import InvalidModelFile, Unsupported
from corral.core.malformed import MALFORMED

__all__ = ("pooling_type",)

_MODULES = "modules.json"
_TYPES = {"mean": 1, "cls": 2, "lasttoken": 3}  # llama.cpp's ``llama_pooling_type``
_MODE = "pooling_mode"
_FLAGS = {
    f"{_MODE}_mean_tokens": "mean",
    f"{_MODE}_cls_token": "cls",
    f"{_MODE}_lasttoken": "lasttoken",
    f"{_MODE}_max_tokens": "max",
    f"{_MODE}_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    f"{_MODE}_weightedmean_tokens": "weightedmean",
}


class _Module(msgspec.Struct, frozen=True):
    type: str
    path: str = ""


def pooling_type(checkpoint: Checkpoint) -> int:
    """llama.cpp's number. Without ``modules.json``, it is the mean, as sentence-transformers has it.

    Raises `Unsupported` for another way, or further layers, and `InvalidModelFile`.
    """
    if not checkpoint.has(_MODULES):
        return _TYPES["mean"]
    try:
        modules = msgspec.json.decode(checkpoint.data(_MODULES), type=list[_Module])
    except MALFORMED as error:
        raise InvalidModelFile(f"{_MODULES} is malformed: {error}", "fetch it again") from error
    found = _TYPES["mean"]
    for module in modules:
        kind = module.type.rpartition(".")[2]
        if kind == "Pooling":
            found = _stated_type(checkpoint, f"{module.path.strip('/')}/config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise Unsupported(f"{_MODULES}: llama.cpp computes no {kind!r} after this encoder")
    return found


def _stated_type(checkpoint: Checkpoint, name: str) -> int:
    stated = checkpoint.json(name)
    found = {mode for flag, mode in _FLAGS.items() if stated.get(flag) is True}
    named: Any = stated.get(_MODE)
    if isinstance(named, str):
        found = {named}
    if len(found) != 1 or not found <= _TYPES.keys():
        shown = " and ".join(sorted(found)) or "nothing"
        raise Unsupported(f"{name}: llama.cpp pools by {', '.join(_TYPES)}, one of them, not by {shown}")
    return _TYPES[found.pop()]
