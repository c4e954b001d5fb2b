"""What a client says about a new model, instead of its weights: ``info`` of ``/api/create``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from corral.core.errors import InvalidRequest
from corral.core.go.quoting import quote
from corral.core.models.model import Model

__all__ = ("with_info",)

_TEXTS = {
    "model_family": "family", "base_name": "base_name", "quantization_level": "quantization",
    "parameter_size": "parameter_size",
}  # fmt: skip
_COUNTS = {"context_length": "context_length", "embedding_length": "embedding_length"}
_MOST = 1 << 40  # what a manifest may say


def with_info(model: Model, info: Mapping[str, Any]) -> Model:
    """The model with these facts, under Ollama's names; capabilities are added. Other names are ignored.

    Raises `InvalidRequest` with Ollama's texts.
    """
    changes: dict[str, Any] = {}
    for name, field in _TEXTS.items():
        if name in info:
            if not isinstance(info[name], str):
                raise InvalidRequest(f"info field {quote(name)} must be a string")
            changes[field] = info[name]
    if changes.get("family"):
        changes["families"] = (changes["family"],)
    for name, field in _COUNTS.items():
        if name in info:
            changes[field] = _count(name, info[name]) or None
    capabilities = info.get("capabilities")
    if isinstance(capabilities, list):
        named = (*model.capabilities, *(one for one in capabilities if isinstance(one, str) and one))
        changes["capabilities"] = tuple(dict.fromkeys(named))
    return msgspec.structs.replace(model, **changes)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequest(f"info field {quote(name)} must be a number")
    if value < 0 or value != int(value) or value > _MOST:
        raise InvalidRequest(f"info field {quote(name)} must be a non-negative integer")
    return int(value)
