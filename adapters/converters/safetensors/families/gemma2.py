"""Gemma 2: norms on both sides of each part, soft caps, and a sliding window in every other layer.

Its norms store what is added to 1; llama.cpp's have the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.config import Config
from corral.adapters.converters.safetensors.families.decoder import Change, DecoderFamily
from corral.core.errors import InvalidModelFile, Unsupported

__all__ = ("GEMMA2", "Gemma2Family", "window_pattern")

_NO_CAP = 1e6  # far above all logits: llama.cpp always has a cap


class Gemma2Family(DecoderFamily):
    """`defaults` are what transformers assumes of a configuration that does not say. llama.cpp scales queries by the
    width of a head, except in models of `layers_of_27b` layers."""

    architecture = "gemma2"
    layer_parts: ClassVar = {
        **DecoderFamily.layer_parts,
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    activations = ("gelu_pytorch_tanh", "gelu_new", "gelu")
    usually_tied = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "sliding_window_pattern": 2,
    }
    layers_of_27b = 46

    def config(self, checkpoint: Checkpoint) -> Config:
        return checkpoint.config.with_defaults(self.defaults)

    def own_keys(self, config: Config) -> Mapping[str, Any]:
        if config.raw("tie_word_embeddings") is False:
            raise Unsupported("llama.cpp computes gemma2 with its token table as output, but this model has another")
        return {
            "attn_logit_softcapping": _cap(config, "attn_logit_softcapping"),
            "final_logit_softcapping": _cap(config, "final_logit_softcapping"),
            "attention.sliding_window": config.count("sliding_window"),
            **window_pattern(config, usual=2),
        }

    def computing(self, config: Config, target: str) -> Change | None:
        scale = self._query_scale(config) if target == self._scaled_part() else 1.0
        if target.endswith("norm"):
            return lambda weight: (weight + 1) * scale
        return None if scale == 1.0 else lambda weight: weight * scale

    def _scaled_part(self) -> str:
        return "attn_q"

    def _query_scale(self, config: Config) -> float:
        """What is missing after llama.cpp's own scaling of queries."""
        if config.count("num_hidden_layers") == self.layers_of_27b:
            width = config.count("hidden_size") // config.count("num_attention_heads")
        else:
            width = self.head_size(config)
        return math.sqrt(width / config.number("query_pre_attn_scalar"))


def window_pattern(config: Config, *, usual: int) -> dict[str, Any]:
    """Which layers have a sliding window, as a key of llama.cpp. Empty if all but every `usual`-th have one, which it
    assumes."""
    layers = config.count("num_hidden_layers")
    period = config.count("sliding_window_pattern")
    slides = [(layer + 1) % period != 0 for layer in range(layers)]
    stated = config.raw("layer_types")
    if isinstance(stated, list):
        slides = [kind == "sliding_attention" for kind in stated]
        if len(slides) != layers or not all(kind in ("sliding_attention", "full_attention") for kind in stated):
            raise InvalidModelFile(
                f"config.json: layer_types does not name the kinds of {layers} layers", "fetch it again"
            )
    if slides == [(layer + 1) % usual != 0 for layer in range(layers)]:
        return {}
    return {"attention.sliding_window_pattern": slides}


def _cap(config: Config, name: str) -> float:
    return _NO_CAP if config.is_null(name) else config.number(name)


GEMMA2 = Gemma2Family()
