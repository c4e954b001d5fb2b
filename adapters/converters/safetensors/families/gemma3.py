"""Gemma 3, of which only the language is converted: norms of queries and keys, and layers with a sliding window that
have a rotary base of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from corral.adapters.converters.safetensors.checkpoint import Checkpoint
from corral.adapters.converters.safetensors.config import Config
from corral.adapters.converters.safetensors.families.gemma2 import Gemma2Family, window_pattern
from corral.core.errors import Unsupported

__all__ = ("GEMMA3", "Gemma3Family")

_PREFIXES = ("model.language_model.", "language_model.model.", "model.")


class Gemma3Family(Gemma2Family):
    architecture = "gemma3"
    layer_parts: ClassVar = {
        **Gemma2Family.layer_parts,
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
    }
    defaults: ClassVar = {
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1e6,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    }
    layers_of_27b = 62

    def config(self, checkpoint: Checkpoint) -> Config:
        stated = checkpoint.config
        language = stated.section("text_config") if "text_config" in stated else stated
        positions = language.section("rope_parameters")
        if "full_attention" in positions:  # as newer configurations have both kinds of layers
            nearby = positions.section("sliding_attention").number("rope_theta", self.defaults["rope_local_base_freq"])
            everywhere = positions.section("full_attention").number("rope_theta", self.defaults["rope_theta"])
            language = language.replaced(
                rope_parameters=None,
                rope_scaling=positions.raw("full_attention"),
                rope_theta=everywhere,
                rope_local_base_freq=nearby,
            )
        return language.with_defaults(self.defaults)

    def prefix(self, checkpoint: Checkpoint) -> str:
        return next((one for one in _PREFIXES if f"{one}embed_tokens.weight" in checkpoint.tensors), "model.")

    def own_keys(self, config: Config) -> Mapping[str, Any]:
        if "attn_logit_softcapping" in config:
            raise Unsupported("llama.cpp computes gemma3 without attn_logit_softcapping, which this model has")
        keys: dict[str, Any] = {}
        if "final_logit_softcapping" in config:
            keys["final_logit_softcapping"] = config.number("final_logit_softcapping")
        if config.count("sliding_window_pattern") == 1:
            return keys
        return {
            **keys,
            "attention.sliding_window": config.count("sliding_window"),
            "rope.freq_base_swa": config.number("rope_local_base_freq"),
            **window_pattern(config, usual=6),
        }

    def ignored(self, name: str) -> bool:
        """Also what sees images."""
        vision = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
        return name.startswith(vision) or super().ignored(name.removeprefix("language_model."))

    def _scaled_part(self) -> str:
        return "attn_q_norm"  # which comes after the projection


GEMMA3 = Gemma3Family()
