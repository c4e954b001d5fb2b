"""Phi-3 and Phi-4: fused projections, rotary positions of a part of each head, and LongRoPE's factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.config import Config
from corral.adapters.converters.safetensors.families.decoder import DecoderFamily
from corral.adapters.converters.safetensors.families.rope import scaling_of
from corral.adapters.converters.safetensors.family import PlannedTensor
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("PHI3", "Phi3Family")

_LONG = ("longrope", "su", "yarn")


class Phi3Family(DecoderFamily):
    """llama.cpp computes it without its sliding window."""

    architecture = "phi3"
    layer_parts: ClassVar = {
        "input_layernorm": "attn_norm",
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }

    def position_keys(self, config: Config) -> Mapping[str, Any]:
        kind, scaling = scaling_of(config)
        keys: dict[str, Any] = {
            "rope.dimension_count": self._rotated(config),
            "rope.freq_base": config.number("rope_theta", scaling.number("rope_theta", 10000.0)),
            "rope.scaling.original_context_length": self._original(config),
        }
        if kind not in ("default", *_LONG):
            raise Unsupported(f"the scaling of positions {kind!r} cannot be converted for this architecture")
        if kind in _LONG:
            keys["rope.scaling.attn_factor"] = scaling.number("attention_factor", self._loudness(config, kind))
        return keys

    def own_keys(self, config: Config) -> Mapping[str, Any]:
        window = config.count("sliding_window") if "sliding_window" in config else 0
        return {"attention.sliding_window": window}

    def tensors(self, checkpoint: Checkpoint) -> Iterator[PlannedTensor]:
        yield from super().tensors(checkpoint)
        config = self.config(checkpoint)
        kind, scaling = scaling_of(config)
        if kind in _LONG:
            for name in ("long", "short"):
                yield _factors(f"rope_factors_{name}.weight", scaling.raw(f"{name}_factor"), self._rotated(config) // 2)

    def _rotated(self, config: Config) -> int:
        share = config.number("partial_rotary_factor", scaling_of(config)[1].number("partial_rotary_factor", 1.0))
        return int(self.head_size(config) * share)

    def _original(self, config: Config) -> int:
        """The length that the model was trained with first: beyond it, the long factors count."""
        longest = config.count("max_position_embeddings")
        stated = scaling_of(config)[1].count("original_max_position_embeddings", longest)
        return config.count("original_max_position_embeddings", stated)

    def _loudness(self, config: Config, kind: str) -> float:
        """What sines and cosines are multiplied by (LongRoPE, section 3)."""
        growth = config.count("max_position_embeddings") / self._original(config)
        if growth <= 1:
            return 1.0
        if kind == "yarn":
            return 0.1 * math.log(growth) + 1
        return math.sqrt(1 + math.log(growth) / math.log(max(2, self._original(config))))


def _factors(name: str, values: Any, count: int) -> PlannedTensor:
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(type(value) in (int, float) and math.isfinite(value) for value in values)
    ):
        raise InvalidModelFile(
            f"config.json: rope_scaling does not have {count} numbers for {name}, one for each rotated pair",
            "fetch it again",
        )
    table: NDArray[np.float32] = np.array(values, np.float32)
    return PlannedTensor(name, (), table.shape, compute=lambda: table)


PHI3 = Phi3Family()
