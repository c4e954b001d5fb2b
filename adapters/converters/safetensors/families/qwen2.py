"""Qwen 2 and 2.5: a llama with biases in Q, K and V, whose heads rotate by halves."""

from __future__ import annotations

from corral.adapters.converters.safetensors.families.decoder import DecoderFamily

__all__ = ("QWEN2", "Qwen2Family")


class Qwen2Family(DecoderFamily):
    architecture = "qwen2"


QWEN2 = Qwen2Family()
