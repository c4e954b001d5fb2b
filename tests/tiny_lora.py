"""Random LoRA adapters for models in GGUF, and the same models with adapters merged into their weights by NumPy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.adapters.formats.gguf.header import HeaderFile
from corral.adapters.formats.gguf.tensors import GgufTensors
from corral.adapters.formats.gguf.writer import NewTensor, gguf_header, padding
from corral.core.random_access import RandomAccessFile
from tests.checkpoints.files import write_safetensors

__all__ = ("LAYER", "Pair", "merge", "random_factors", "write_lora", "write_peft")

LAYER = tuple(
    f"blk.0.{name}.weight" for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
)
"""The matrices of the first layer of a llama."""
_EMBEDDING = "token_embd.weight"

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A of ``(rank, inputs)`` and B of ``(outputs, rank)``; of embeddings ``(tokens, rank)`` and ``(width, rank)``."""


def random_factors(base: Path, stems: Sequence[str] = LAYER, *, rank: int = 4, seed: int = 1) -> dict[str, Pair]:
    """Factors for these tensors of the model at `base`, which change its answers a lot."""
    random = np.random.default_rng(seed)
    found = {}
    with GgufTensors(base) as tensors:
        for stem in stems:
            rows, columns = tensors.shape(stem)
            sizes = ((rows, rank), (columns, rank)) if stem == _EMBEDDING else ((rank, columns), (rows, rank))
            a, b = (random.normal(0, 0.2, size).astype("<f4") for size in sizes)
            found[stem] = a, b
    return found


def write_lora(
    path: Path, factors: Mapping[str, Pair], *, alpha: float | None = 8.0, kind: str = "F32", **pairs: Any
) -> Path:
    """An adapter in GGUF; `pairs` are key-values besides the usual ones, with ``__`` for dots."""
    header: dict[str, Any] = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    header |= {} if alpha is None else {"adapter.lora.alpha": alpha}
    header |= {name.replace("__", "."): value for name, value in pairs.items()}
    tensors, data = [], []
    for stem, pair in factors.items():
        for values, suffix in zip(pair, (".lora_a", ".lora_b"), strict=True):
            raw = values.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()
            tensors.append(NewTensor(stem + suffix, kind, values.shape[::-1], len(raw)))
            data.append(raw + bytes(padding(len(raw))))
    path.write_bytes(gguf_header(3, header, tensors) + b"".join(data))
    return path


def merge(base: Path, path: Path, adapters: Sequence[tuple[Mapping[str, Pair], float]]) -> Path:
    """The model at `base`, of the type F32, with W + scale * B @ A in place of W for each adapter."""
    with RandomAccessFile(base) as source:
        placed = {tensor.name: tensor for tensor in HeaderFile(source).header().tensors}
    data = bytearray(base.read_bytes())
    for factors, scale in adapters:
        for stem, (a, b) in factors.items():
            tensor = placed[stem]
            assert tensor.type_name == "F32"
            weights = np.frombuffer(data, "<f4", math.prod(tensor.shape), tensor.offset_bytes)
            product = a.astype("f8") @ b.T.astype("f8") if stem == _EMBEDDING else b.astype("f8") @ a.astype("f8")
            weights += (scale * product).astype("<f4").ravel()
    path.write_bytes(data)
    return path


_MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def write_peft(
    folder: Path, factors: Mapping[str, Pair], config: Mapping[str, Any] = {}, *, heads: tuple[int, int] | None = (4, 1)
) -> Path:
    """The adapter as PEFT saves it. `heads` of queries and keys are those whose rows GGUF has in another order than the
    checkpoint; None if it has the same."""
    folder.mkdir()
    tensors = dict[str, NDArray[np.float32]]()
    for stem, (a, b) in factors.items():
        *layer, target, _ = stem.split(".")
        if target == "token_embd":
            tensors |= {"embed_tokens.lora_embedding_A": a.T, "embed_tokens.lora_embedding_B": b}
            continue
        if heads is not None and target in ("attn_q", "attn_k"):
            pairs = b.reshape(heads[target == "attn_k"], -1, 2, b.shape[1])
            b = pairs.swapaxes(1, 2).reshape(b.shape)
        module = f"layers.{layer[1]}.{_MODULES[target]}" if layer else "lm_head"
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    named = {
        f"base_model.model.{'' if name.startswith('lm_') else 'model.'}{name}": one for name, one in tensors.items()
    }
    write_safetensors(folder / "adapter_model.safetensors", named)
    rank = max(a.shape[0] for a, _ in factors.values())
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 8, **config}))
    return folder
