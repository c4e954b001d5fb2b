"""Qwen 3: each head of Q and K is normalised before it is rotated."""

from __future__ import annotations

from typing import ClassVar

from corral.adapters.converters.safetensors.families.decoder import DecoderFamily

__all__ = ("QWEN3", "Qwen3Family")


class Qwen3Family(DecoderFamily):
    architecture = "qwen3"
    layer_parts: ClassVar = {
        **DecoderFamily.layer_parts,
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
    }


QWEN3 = Qwen3Family()
