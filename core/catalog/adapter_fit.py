"""Decides whether a LoRA adapter was made for the weights that it is to be applied to.

An adapter names the tensors that it changes, and has two factors for each (see `corral.adapters.formats.gguf.lora`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from corral.core.catalog.inspection import Tensors, WeightsInspector
from corral.core.errors import InvalidModelFile
from corral.core.models.digests import Digest
from corral.core.models.model import ModelMetadata

__all__ = ("check_adapters",)

_log = logging.getLogger(__name__)

_A, _B, _NORM = ".lora_a", ".lora_b", "_norm.weight"
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_UNABLE = frozenset({"NVFP4"})
"""Types of weights whose products llama.cpp computes in a way that leaves no room for an adapter."""
_ANOTHER = "an adapter works only with the model that it was trained for"


async def check_adapters(
    inspector: WeightsInspector, model: str, weights: Digest, adapters: Mapping[Digest, str]
) -> None:
    """Of GGUF weights: `model` is what errors call them, `adapters` are names by digest.

    Raises `InvalidModelFile` that names both for an adapter that does not fit, and as `WeightsInspector.metadata`. If
    both say which model they belong to, and these are different ones, that is only logged: people also apply an adapter
    to a model that was trained further.
    """
    base = await inspector.metadata(weights)
    if base is None or base.format != "gguf" or not adapters:
        return
    shapes = _by_name(await inspector.tensors(weights))
    for digest, name in adapters.items():
        found = await inspector.metadata(digest)
        if found is None or found.keys.get("general.type") != "adapter":
            raise InvalidModelFile(f"{name} is no LoRA adapter in GGUF", "convert it first, or name another file")
        if found.architecture != base.architecture:
            raise _misfit(
                name, model, f"it was made for the architecture {found.architecture!r}, not {base.architecture!r}"
            )
        _check_tensors(name, model, await inspector.tensors(digest), shapes)
        _tell_origins(name, model, found, base)


Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def _by_name(tensors: Tensors) -> Shapes:
    return {name: (kind, shape) for name, kind, shape in tensors}


def _check_tensors(name: str, model: str, adapter: Tensors, base: Shapes) -> None:
    shapes = {tensor: shape for tensor, _, shape in adapter}
    for tensor, a in shapes.items():
        stem = tensor.removesuffix(_A)
        if stem == tensor:
            continue
        if stem not in base:
            raise _misfit(name, model, f"it changes {stem}, which the model does not have")
        kind, shape = base[stem]
        if kind in _UNABLE:
            raise _misfit(name, model, f"no adapter can be applied to {stem}, which is of the type {kind}")
        if stem == _EMBEDDING and _OUTPUT not in base:
            raise _misfit(name, model, f"it changes {stem}, which is the output of this model as well")
        b = shapes[stem + _B]
        changed = (b[1], a[1]) if stem.endswith(_EMBEDDING) else (a[0], b[1])
        if len(shape) < 2 or _whole((*changed, *a[2:])) != _whole(shape):
            raise _misfit(name, model, f"it changes {stem} of the shape {changed}, but there it has the shape {shape}")
    norms = [tensor for tensor in shapes if tensor.endswith(_NORM)]
    if norms:
        _log.warning("%s: the %d norms of the adapter %s are not applied, %s …", model, len(norms), name, norms[0])


def _whole(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1, 1)[:4]


def _misfit(name: str, model: str, why: str) -> InvalidModelFile:
    return InvalidModelFile(f"the adapter {name} does not fit {model}: {why}", _ANOTHER)


def _tell_origins(name: str, model: str, adapter: ModelMetadata, base: ModelMetadata) -> None:
    """Log that the adapter was trained for another model, if both say where they come from."""
    trained_for = _addresses(adapter.keys, ("general.base_model.0.repo_url",))
    own = _addresses(
        base.keys, ("general.repo_url", "general.source.repo_url", "general.source.huggingface.repository")
    )
    inherited = _addresses(base.keys, [key for key in base.keys if key.startswith("general.base_model.")])
    if trained_for and own and not trained_for & (own | inherited):
        _log.warning("the adapter %s was trained for %s, not for %s (%s)", name, *trained_for, model, min(own))


def _addresses(keys: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """The last two parts of addresses: the owner and the name of a repository."""
    texts = (keys.get(name) for name in names)
    parts = (text.rstrip("/").lower().split("/")[-2:] for text in texts if isinstance(text, str))
    return {"/".join(pair) for pair in parts if len(pair) == 2}
