"""Refuses LoRA adapters that are not whole, or that llama.cpp would apply to something else than they were made for.

Source: ``llama-adapter.cpp`` and ``llama-graph.cpp`` of llama.cpp, which check only a part of it, and end the process
for the rest when the adapter is used. Whether it fits a model is another question (`corral.core.catalog.adapter_fit`).
"""

from __future__ import annotations

import math

from corral.adapters.formats.gguf.header import Header, Tensor
from corral.core.errors import InvalidModelFile

__all__ = ("ALPHA", "check_lora")

ALPHA = "adapter.lora.alpha"
_TYPE = "adapter.type"
_INVOCATION = "adapter.alora.invocation_tokens"
_A, _B = ".lora_a", ".lora_b"
_NORM = "_norm.weight"
_EMBEDDING = "token_embd.weight"
_TYPES = frozenset(
    ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"]
)


def check_lora(file_name: str, header: Header) -> None:
    """Raises `InvalidModelFile`, also for a kind of adapter that is applied in another way. Does nothing if the file is
    no adapter."""
    if header.pairs.get("general.type") != "adapter":
        return
    kind = header.pairs.get(_TYPE)
    if kind != "lora":
        raise InvalidModelFile(f"{file_name}: {_TYPE} is {kind!r}, and only adapters of the type 'lora' can be applied")
    if _INVOCATION in header.pairs:
        raise InvalidModelFile(
            f"{file_name}: it is an activated LoRA ({_INVOCATION}), which would have to begin in the middle of a prompt"
        )
    alpha = header.pairs.get(ALPHA, 0.0)
    if not math.isfinite(alpha):
        raise _broken(file_name, f"{ALPHA} is {alpha}")
    halves: dict[str, dict[str, Tensor]] = {_A: {}, _B: {}}
    for tensor in header.tensors:
        suffix = tensor.name[-len(_A) :]
        stem = tensor.name[: -len(_A)]
        if suffix in halves and stem and _A not in stem and _B not in stem:
            halves[suffix][stem] = tensor
        elif not tensor.name.endswith(_NORM):
            raise _broken(file_name, f"the tensor {tensor.name!r} is neither {_A} nor {_B} of another one")
        if tensor.type_name not in _TYPES:
            raise _broken(file_name, f"the tensor {tensor.name!r} has the type {tensor.type_name}")
    if not halves[_A] and not halves[_B]:
        raise _broken(file_name, "it changes nothing: it has no tensors that end in .lora_a and .lora_b")
    for stem in halves[_A].keys() ^ halves[_B].keys():
        raise _broken(file_name, f"it has {stem}{_B if stem in halves[_B] else _A} without its other half")
    for stem, a in halves[_A].items():
        _check_pair(file_name, stem, a, halves[_B][stem])


def _check_pair(file_name: str, stem: str, a: Tensor, b: Tensor) -> None:
    """`a` makes rows of the rank's length, and `b` rows of the output's; for embeddings, `a` has a row per token."""
    first, second = ((*tensor.shape, 1, 1, 1)[:4] for tensor in (a, b))
    rank = first[0] if stem.endswith(_EMBEDDING) else first[1]
    if len(a.shape) < 2 or len(b.shape) < 2 or rank != second[0] or first[2:] != second[2:]:
        raise _broken(file_name, f"{stem}{_A} of the shape {a.shape} does not fit {_B} of the shape {b.shape}")


def _broken(file_name: str, what: str) -> InvalidModelFile:
    return InvalidModelFile(f"{file_name}: {what}", "convert or fetch the adapter again")
